//! Starts that must fail, with an error that says what to do.

use std::net::TcpListener;

use crate::process::Setup;

/// Starts, expects an end with exit code 1, and gives what was said.
fn refused(setup: &Setup) -> String {
    let mut broker = setup.spawn();
    let status = broker.ready().expect_err("this start must fail");
    assert_eq!(status.code(), Some(1), "{}", broker.log_tail());
    broker.log_tail()
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--kafka-listen", "--grpc-listen", "--http-listen"] {
        let said = refused(&Setup::new(folder.path(), &[flag, &address]));
        assert!(said.contains(&address) && said.contains(flag), "{said}");
    }
    let (broker, _) = Setup::new(folder.path(), &[]).start();
    assert!(broker.stop().success());
}

#[test]
fn a_data_directory_in_use_newer_or_of_others_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), &[]);
    let (broker, _) = setup.start();
    let said = refused(&setup);
    assert!(said.contains("in use by another esker"), "{said}");
    assert!(broker.stop().success());

    let said = refused(&Setup::new(folder.path(), &["--broker-id", "7"]));
    assert!(said.contains("belongs to broker 1"), "{said}");

    let version = setup.data_dir().join("VERSION");
    let text = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, text.replace("format: 1", "format: 2")).unwrap();
    let said = refused(&setup);
    assert!(said.contains("format version 2") && said.contains("VERSION"), "{said}");
    std::fs::write(&version, text).unwrap();

    // The objects of another cluster.
    let other = tempfile::tempdir().unwrap();
    let (broker, _) = Setup::new(other.path(), &[]).start();
    assert!(broker.stop().success());
    let objects = format!("file://{}", other.path().join("data/objects").display());
    let said = refused(&Setup::new(folder.path(), &["--object-store", &objects]));
    assert!(said.contains("belongs to cluster"), "{said}");

    let (broker, _) = setup.start();
    assert!(broker.stop().success());
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new(folder.path(), &[]);
    std::fs::create_dir(setup.data_dir()).unwrap();
    std::fs::write(setup.data_dir().join("thesis.txt"), "precious").unwrap();
    let said = refused(&setup);
    assert!(said.contains("not empty"), "{said}");
    assert_eq!(std::fs::read_dir(setup.data_dir()).unwrap().count(), 2, "the lock and the thesis");
}
