//! `esker bench`.

use crate::harness::{Home, NOBODY, Ran, Serving, esker, helps, spawn};

fn door_of(broker: &Serving, door: &str) -> String {
    if door == "kafka" { broker.doors.kafka.to_string() } else { broker.bootstrap() }
}

/// Small and quick: batches of ten records.
fn bench(broker: &Serving, what: &str, door: &str, topic: &str, more: &[&str]) -> Ran {
    let address = door_of(broker, door);
    let common = ["bench", what, "--door", door, "--bootstrap", &address, "--topic", topic, "--record-bytes", "100"];
    esker(&[&common, &["--batch-bytes", "1000", "--partitions", "3", "--producers", "3"][..], more].concat())
}

#[test]
fn its_help_has_examples() {
    helps(&["bench"], &["produce", "consume", "--door", "--rate", "--json", "esker bench produce --door kafka"]);
}

#[test]
fn what_one_door_writes_the_other_reads() {
    let home = Home::new();
    let broker = home.broker(&[]);
    for (door, other, topic) in [("grpc", "kafka", "one"), ("kafka", "grpc", "two")] {
        let ran = bench(&broker, "produce", door, topic, &["--records", "300"]).ok();
        ran.has(&[
            "load        3 writers through the ",
            "records     300 acknowledged in ",
            "30 batches",
            "latency     p50 ",
        ]);
        let told =
            bench(&broker, "produce", door, topic, &["--records", "300", "--acks", "leader", "--json"]).ok().json();
        assert_eq!((&told["records"], &told["batches"], &told["door"]), (&300.into(), &30.into(), &door.into()));
        assert!(told["latency_ms"]["max"].as_f64() >= told["latency_ms"]["p50"].as_f64(), "{told}");
        assert!(told["records_per_s"].as_f64() > Some(0.0), "{told}");
        for door in [door, other] {
            let told = bench(&broker, "consume", door, topic, &["--json"]).ok().json();
            assert_eq!((&told["records"], &told["operation"]), (&600.into(), &"consume".into()), "{told}");
        }
    }
    let records =
        bench(&broker, "produce", "grpc", "one", &["--records", "50", "--send", "records", "--compression", "lz4"]);
    records.ok().has(&["through the grpc door, as records", "records     50 acknowledged"]);
}

#[test]
fn an_interrupt_ends_it_with_what_there_is() {
    let home = Home::new();
    let broker = home.broker(&[]);
    let address = broker.bootstrap();
    let load =
        ["bench", "produce", "-b", &address, "--duration", "100", "--rate", "1000", "--batch-bytes", "1024", "--json"];
    let running = spawn(&load, &[]);
    loop {
        let ran = esker(&["bench", "consume", "-b", &address, "--json"]);
        // There is no topic at first.
        if ran.code == Some(0) && ran.json()["records"].as_u64() > Some(0) {
            break;
        }
    }
    running.interrupt();
    let told = running.wait().ok().json();
    assert!(told["records"].as_u64() > Some(0) && told["seconds"].as_f64() < Some(100.0), "{told}");
}

#[test]
fn errors_say_what_is_wrong() {
    let home = Home::new();
    let broker = home.broker(&[]);
    for door in ["kafka", "grpc"] {
        let ran = esker(&["bench", "produce", "--door", door, "-b", NOBODY, "--json"]);
        assert_eq!(ran.stdout, "");
        ran.fails(1, "no broker answers (127.0.0.1:1: ");
        bench(&broker, "consume", door, "nothing", &[]).fails(1, "nothing");
        bench(&broker, "produce", door, "no name", &[]).fails(1, "no name");
    }
    bench(&broker, "produce", "kafka", "t", &["--send", "records"]).fails(1, "--send records is for --door grpc");
    esker(&["bench", "produce", "--door", "back"]).fails(2, "invalid value 'back'");
    esker(&["bench", "produce", "--records", "0"]).fails(2, "invalid value '0'");
    // Alone it prints its help, to stderr: nothing was asked for.
    assert_eq!(esker(&["bench"]).code, Some(2));
}
