//! Topics: Kafka's rules, and what the image shows.

use proptest::prelude::*;

use super::*;
use crate::base::Rng;

async fn refused(bench: &Bench, new: NewTopic) -> TopicError {
    bench.catalogue.create_topics(vec![new], false).await.remove(0).expect_err("refused")
}

#[tokio::test]
async fn a_created_topic_is_shown_at_once() {
    let bench = bench(TopicRules { default_partitions: 4, ..TopicRules::default() }).await;
    let new = NewTopic {
        replication_factor: 3,
        configs: vec![("retention.ms".to_owned(), Some("60000".to_owned()))],
        ..topic("orders", -1)
    };
    let created = bench.catalogue.create_topics(vec![new], false).await.remove(0).expect("created");
    assert_eq!((created.partitions, created.replication_factor), (4, 3));
    let image = bench.catalogue.image();
    let topic = image.topic("orders").expect("shown");
    assert_eq!((topic.id, topic.partitions.len(), topic.replication_factor), (created.id, 4, 3));
    assert_eq!(topic.settings.retention_ms, Some(60_000));
    assert_eq!(image.topic_by_id(created.id).expect("shown").name, "orders");
    let led: Vec<_> = image.led_by(bench.registration.session()).collect();
    assert_eq!(led.len(), 4);
    assert!(led.iter().all(|(_, assignment)| assignment.leader_epoch == 0 && assignment.from.is_empty()));
    assert_eq!(image.leading_broker(led[0].1).expect("alive").port, 9092);
    assert_eq!(image.leader(topic.partition(4)), None);
    assert_eq!(image.leader(topic.partition(-1)), None);
}

#[tokio::test]
async fn names_follow_kafkas_rules() {
    let bench = bench(TopicRules::default()).await;
    bench.create("a.b", 1).await.expect("created");
    bench.create(&"x".repeat(249), 1).await.expect("created");
    for (name, code) in [("", 17), (".", 17), ("..", 17), ("a b", 17), ("ä", 17), ("a/b", 17), ("a_b", 17), ("a.b", 36)]
    {
        assert_eq!(refused(&bench, topic(name, 1)).await.code(), code, "{name}");
    }
    assert_eq!(refused(&bench, topic(&"x".repeat(250), 1)).await.code(), 17);
    let answers = bench
        .catalogue
        .create_topics(vec![topic("d.d", 1), topic("d_d", 1), topic("e", 1), topic("e", 2)], false)
        .await;
    let codes: Vec<i16> = answers.iter().map(|answer| answer.as_ref().err().map_or(0, TopicError::code)).collect();
    assert_eq!(codes, [0, 17, 42, 42]);
}

#[tokio::test]
async fn shapes_follow_kafkas_rules() {
    let bench = bench(TopicRules::default()).await;
    let base = topic("a", 1);
    let manual = |assignments: &[(i32, &[i32])]| NewTopic {
        partitions: -1,
        replication_factor: -1,
        assignments: assignments.iter().map(|(partition, replicas)| (*partition, replicas.to_vec())).collect(),
        ..base.clone()
    };
    for (new, code) in [
        (NewTopic { partitions: 0, ..base.clone() }, 37),
        (NewTopic { partitions: -2, ..base.clone() }, 37),
        (NewTopic { partitions: 10_001, ..base.clone() }, 37),
        (NewTopic { replication_factor: 0, ..base.clone() }, 38),
        (NewTopic { replication_factor: -2, ..base.clone() }, 38),
        (NewTopic { partitions: 1, ..manual(&[(0, &[1])]) }, 42),
        (NewTopic { replication_factor: 1, ..manual(&[(0, &[1])]) }, 42),
        (manual(&[(0, &[1]), (0, &[1])]), 39),
        (manual(&[(0, &[1]), (2, &[1])]), 39),
        (manual(&[(0, &[])]), 39),
        (manual(&[(0, &[1, 1])]), 39),
        (manual(&[(0, &[2])]), 39),
        (NewTopic { configs: vec![("retention.ms".to_owned(), None)], ..base.clone() }, 40),
        (NewTopic { configs: vec![("compression.type".to_owned(), Some("zstd".to_owned()))], ..base.clone() }, 40),
        (NewTopic { configs: vec![("no.such".to_owned(), Some("1".to_owned()))], ..base.clone() }, 40),
        (
            NewTopic {
                configs: vec![("leader.replication.throttled.replicas".to_owned(), Some("0:1,".repeat(20_000)))],
                ..base.clone()
            },
            40,
        ),
    ] {
        let error = refused(&bench, new.clone()).await;
        assert_eq!(error.code(), code, "{new:?}: {error}");
    }
    let new = manual(&[(1, &[1]), (0, &[1])]);
    let would = bench.catalogue.create_topics(vec![new.clone()], true).await.remove(0).expect("valid");
    assert_eq!((would.partitions, would.replication_factor), (2, 1));
    assert!(bench.catalogue.image().topic("a").is_none(), "validated only");
    bench.catalogue.create_topics(vec![new], false).await.remove(0).expect("created");
}

#[tokio::test]
async fn limits_of_the_cluster_are_named() {
    let rules = TopicRules { max_topics: 3, max_partitions: 10, ..TopicRules::default() };
    let bench = bench(rules).await;
    let answers = bench.catalogue.create_topics(vec![topic("a", 4), topic("b", 5), topic("c", 2)], false).await;
    let error = answers[2].as_ref().expect_err("eleven partitions");
    assert_eq!(error.code(), 44);
    assert!(error.to_string().contains("topics.max_partitions"), "{error}");
    bench.create("c", 1).await.expect("created");
    let error = refused(&bench, topic("d", 1)).await;
    assert!(error.to_string().contains("topics.max_topics"), "{error}");
    let new = NewPartitions { name: "a".to_owned(), total: 5, assignments: None };
    assert_eq!(bench.catalogue.create_partitions(&new, false).await.expect_err("full").code(), 44);
}

#[tokio::test]
async fn partitions_are_added_across_chunks() {
    let bench = bench(TopicRules::default()).await;
    bench.create("a", 99).await.expect("created");
    let add = |total| NewPartitions { name: "a".to_owned(), total, assignments: None };
    for (new, code) in [
        (add(99), 37),
        (add(98), 37),
        (add(-1), 37),
        (NewPartitions { name: "b".to_owned(), ..add(5) }, 3),
        (NewPartitions { assignments: Some(vec![]), ..add(100) }, 39),
        (NewPartitions { assignments: Some(vec![vec![9]]), ..add(100) }, 39),
    ] {
        let error = bench.catalogue.create_partitions(&new, false).await.expect_err("refused");
        assert_eq!(error.code(), code, "{new:?}: {error}");
    }
    bench.catalogue.create_partitions(&add(350), true).await.expect("valid");
    assert_eq!(bench.catalogue.image().partition_count, 99);
    for total in [100, 101, 350] {
        bench.catalogue.create_partitions(&add(total), false).await.expect("added");
        let image = bench.catalogue.image();
        assert_eq!(image.topic("a").expect("shown").partitions.len(), total as usize);
        assert_eq!(image.partition_count, total as usize);
    }
    assert_eq!(bench.catalogue.image().topic("a").expect("shown").chunk_revisions.len(), 4);
}

#[tokio::test]
async fn configs_are_altered_both_ways() {
    let bench = bench(TopicRules::default()).await;
    bench.create("a", 1).await.expect("created");
    let catalogue = &bench.catalogue;
    let set = |name: &str, value: &str| (name.to_owned(), ConfigOp::Set(Some(value.to_owned())));
    let value = Some("compact".to_owned());
    let change = ConfigChange::Incremental(vec![
        set("retention.ms", "5"),
        ("cleanup.policy".to_owned(), ConfigOp::Append(value.clone())),
    ]);
    catalogue.alter_configs("a", &change, true).await.expect("valid");
    assert!(catalogue.image().topic("a").expect("shown").configs.is_empty(), "validated only");
    catalogue.alter_configs("a", &change, false).await.expect("altered");
    let topic = catalogue.image().topic("a").expect("shown").clone();
    assert_eq!(topic.configs["cleanup.policy"], "delete,compact", "appended to the default");
    assert!(topic.settings.cleanup_compact && topic.settings.cleanup_delete);
    let change = ConfigChange::Incremental(vec![
        ("retention.ms".to_owned(), ConfigOp::Delete),
        ("cleanup.policy".to_owned(), ConfigOp::Subtract(Some("delete".to_owned()))),
    ]);
    catalogue.alter_configs("a", &change, false).await.expect("altered");
    let topic = catalogue.image().topic("a").expect("shown").clone();
    assert_eq!(topic.configs.len(), 1);
    assert_eq!(topic.configs["cleanup.policy"], "compact");
    let replace = ConfigChange::Replace(vec![("retention.bytes".to_owned(), Some("9".to_owned()))]);
    catalogue.alter_configs("a", &replace, false).await.expect("altered");
    let before = catalogue.image();
    assert_eq!(before.topic("a").expect("shown").configs.keys().collect::<Vec<_>>(), ["retention.bytes"]);
    catalogue.alter_configs("a", &replace, false).await.expect("nothing to do");
    assert_eq!(catalogue.image().version, before.version, "nothing was written");
    for (change, code) in [
        (ConfigChange::Incremental(vec![("retention.ms".to_owned(), ConfigOp::Append(value.clone()))]), 40),
        (ConfigChange::Incremental(vec![set("retention.ms", "x")]), 40),
        (ConfigChange::Incremental(vec![set("retention.ms", "1"), set("retention.ms", "2")]), 42),
        (ConfigChange::Incremental(vec![("retention.ms".to_owned(), ConfigOp::Set(None))]), 42),
        (ConfigChange::Replace(vec![("retention.ms".to_owned(), None)]), 40),
    ] {
        let error = catalogue.alter_configs("a", &change, false).await.expect_err("refused");
        assert_eq!(error.code(), code, "{change:?}: {error}");
    }
    let described = catalogue.describe_configs("a", Some(&["retention.bytes".to_owned()])).expect("described");
    assert_eq!(described.len(), 1);
    assert_eq!(described[0].value.as_deref(), Some("9"));
    assert_eq!(catalogue.describe_configs("b", None).expect_err("unknown").code(), 3);
}

#[tokio::test]
async fn a_deleted_topic_leaves_a_trace_until_its_objects_are_gone() {
    let bench = bench(TopicRules::default()).await;
    let first = bench.create("a", 150).await.expect("created");
    let refs = vec![TopicRef::Name("a".to_owned()), TopicRef::Name("b".to_owned()), TopicRef::Id(uuid::Uuid::nil())];
    let answers = bench.catalogue.delete_topics(refs).await;
    assert_eq!(answers[0], Ok(("a".to_owned(), first.id)));
    assert_eq!(answers[1].as_ref().expect_err("unknown").code(), 3);
    assert_eq!(answers[2].as_ref().expect_err("unknown").code(), 100);
    let image = bench.catalogue.image();
    assert_eq!((image.topic_count(), image.partition_count), (0, 0));
    assert_eq!(image.deletions[&first.id].partitions, 150);
    let second = bench.create("a", 1).await.expect("created again");
    assert_ne!(first.id, second.id);
    assert!(bench.catalogue.image().topic_by_id(first.id).is_none());
    let own = bench.registration.session();
    let other = SessionId { broker_id: 9, ..own };
    let refused = bench.catalogue.finish_deletions(other, &[first.id]).await;
    assert!(matches!(refused, Err(TopicError::NotController)), "{refused:?}");
    bench.catalogue.finish_deletions(own, &[first.id]).await.expect("forgotten");
    bench.catalogue.finish_deletions(own, &[first.id]).await.expect("forgotten before");
    assert!(bench.catalogue.image().deletions.is_empty());
    let left = bench.store.range(keys().root()).await.expect("read").entries;
    assert!(!left.iter().any(|entry| entry.key.contains(&first.id.to_string())), "nothing of it is left");
}

#[tokio::test]
async fn racing_creates_of_one_topic_have_one_winner() {
    let bench = bench(TopicRules::default()).await;
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..8 {
        let catalogue = bench.catalogue.clone();
        racers.spawn(async move {
            let own = topic(&format!("own-{racer}"), 1);
            catalogue.create_topics(vec![own, topic("shared", 1)], false).await
        });
    }
    let answers = racers.join_all().await;
    assert!(answers.iter().all(|answer| answer[0].is_ok()));
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer[1].is_ok());
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|answer| answer[1].as_ref().expect_err("lost").code() == 36));
}

#[tokio::test]
async fn without_a_controller_nothing_changes() {
    let bench = bench(TopicRules::default()).await;
    bench.create("a", 1).await.expect("created");
    // Its lease ends; the image is still the old one.
    let image = bench.catalogue.image();
    bench.registration.release().await.expect("released");
    let piece = crate::cluster::batch::Piece::default();
    let outcome = bench.catalogue.commit(&image, crate::cluster::catalogue::Guard::Reign, &[piece]).await;
    assert!(matches!(outcome, Ok(None)), "{outcome:?}");
    assert_eq!(bench.create("b", 1).await.expect_err("no controller").code(), 7);
    let change = ConfigChange::Replace(vec![("retention.ms".to_owned(), Some("5".to_owned()))]);
    assert_eq!(bench.catalogue.alter_configs("a", &change, false).await.expect_err("no controller").code(), 7);
    assert!(bench.registration.announce(&broker(bench.registration.session())).await.is_err());
    assert!(*bench.registration.ended().borrow());
}

#[tokio::test]
async fn a_thousand_topics_of_ten_partitions_are_created_and_loaded_quickly() {
    let bench = bench(TopicRules::default()).await;
    let clock = Clock::system();
    let start = clock.boot_ms();
    let topics = (0..1000).map(|n| topic(&format!("topic-{n}"), 10)).collect();
    assert!(bench.catalogue.create_topics(topics, false).await.iter().all(Result::is_ok));
    let created = clock.boot_ms();
    let (_tasks, other) = catalogue(&bench.store, &bench.time.clock(), TopicRules::default()).await;
    let loaded = clock.boot_ms();
    assert_eq!(other.image().partition_count, 10_000);
    println!("created in {} ms, loaded in {} ms (unoptimised)", created - start, loaded - created);
    assert!(loaded - created < 5_000, "loading took {} ms", loaded - created);
    let versions = bench.catalogue.image().version;
    assert!(versions < 40, "few transactions: {versions}");
}

#[tokio::test]
async fn a_value_of_a_newer_version_stops_the_broker_with_a_reason() {
    let bench = bench(TopicRules::default()).await;
    let key = keys().key(&Key::Topic("a".to_owned()));
    let write = crate::meta::Write::Put { key, value: r#"{"v":9}"#.into(), lease: 0 };
    bench.store.txn(vec![], vec![write]).await.expect("written");
    bench.tasks.stopping().cancelled().await;
    let failure = bench.tasks.failure().expect("a reason");
    assert!(failure.contains("topics/a") && failure.contains("version 9"), "{failure}");
    let metrics = Metrics::default();
    let (clock, rules) = (bench.time.clock(), TopicRules::default());
    let opened =
        Catalogue::open(bench.store.clone(), keys(), rules, clock, Rng::seeded(1), metrics, &Tasks::new()).await;
    assert!(matches!(opened, Err(ClusterError::Value(_))), "{opened:?}");
}

#[derive(Debug, Clone)]
enum Op {
    Create(u8, i32),
    Delete(u8),
    Grow(u8, i32),
    Alter(u8, u32),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8, 1..220i32).prop_map(|(topic, partitions)| Op::Create(topic, partitions)),
        2 => (0..6u8).prop_map(Op::Delete),
        2 => (0..6u8, 1..250i32).prop_map(|(topic, total)| Op::Grow(topic, total)),
        2 => (0..6u8, any::<u32>()).prop_map(|(topic, value)| Op::Alter(topic, value)),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The image that followed every event is the image that is read afresh.
    #[test]
    fn following_the_watch_and_reading_afresh_agree(ops in prop::collection::vec(op(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut bench = bench(TopicRules::default()).await;
            for op in ops {
                let name = |topic: u8| format!("t{topic}");
                match op {
                    Op::Create(topic, partitions) => drop(bench.create(&name(topic), partitions).await),
                    Op::Delete(topic) => drop(bench.catalogue.delete_topics(vec![TopicRef::Name(name(topic))]).await),
                    Op::Grow(topic, total) => {
                        let new = NewPartitions { name: name(topic), total, assignments: None };
                        drop(bench.catalogue.create_partitions(&new, false).await);
                    }
                    Op::Alter(topic, value) => {
                        let set = ConfigOp::Set(Some(value.to_string()));
                        let change = ConfigChange::Incremental(vec![("retention.ms".to_owned(), set)]);
                        drop(bench.catalogue.alter_configs(&name(topic), &change, false).await);
                    }
                    Op::Restart => {
                        let old = bench.registration.session();
                        let next = bench_on(bench.store.clone(), bench.time.clone(), TopicRules::default()).await;
                        next.succeed(old, 5).await;
                        let image = next.catalogue.image();
                        assert_eq!(image.led_by(next.registration.session()).count(), image.partition_count);
                        bench = next;
                    }
                }
                let image = bench.catalogue.image();
                assert_eq!(image.partition_count, image.topics().map(|topic| topic.partitions.len()).sum::<usize>());
            }
            let (_tasks, fresh) = catalogue(&bench.store, &bench.time.clock(), TopicRules::default()).await;
            assert_eq!(shown(&bench.catalogue.image()), shown(&fresh.image()));
        });
    }
}
