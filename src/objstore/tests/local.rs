use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::base::{ErrorKind, Rng};
use crate::objstore::{Created, LocalStore, ObjectStore, Payload};

fn open(root: &Path, seed: u64) -> LocalStore {
    LocalStore::open(root, &Rng::seeded(seed)).unwrap()
}

fn bytes(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

async fn keys(store: &LocalStore, prefix: &str) -> Vec<String> {
    store.list(prefix, None).map_ok(|object| object.key).try_collect().await.unwrap()
}

#[tokio::test]
async fn objects_survive_a_new_open_and_temporary_files_do_not() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("made/on/open");
    open(&root, 1).create("log/a", bytes("one")).await.unwrap();
    // What a killed process leaves: a directory of temporary files and a lock that nobody holds.
    fs::create_dir(root.join(".tmp/dead")).unwrap();
    fs::write(root.join(".tmp/dead/7"), "half").unwrap();
    fs::write(root.join(".tmp/dead.lock"), "").unwrap();

    let store = open(&root, 2);
    assert_eq!(store.get("log/a").await.unwrap(), "one");
    assert!(!root.join(".tmp/dead").exists() && !root.join(".tmp/dead.lock").exists());
}

#[tokio::test]
async fn another_living_owner_keeps_its_temporary_files() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (open(scratch.path(), 1), open(scratch.path(), 2));
    assert_eq!(first.create("k", bytes("first")).await.unwrap(), Created::Yes);
    assert_eq!(second.create("k", bytes("second")).await.unwrap(), Created::Exists);
    assert_eq!(second.get("k").await.unwrap(), "first");
    assert_eq!(keys(&second, "").await, ["k"]);
}

#[tokio::test]
async fn a_file_on_the_same_disk_is_linked_not_copied() {
    use std::os::unix::fs::MetadataExt as _;
    let scratch = tempfile::tempdir().unwrap();
    let store = open(&scratch.path().join("store"), 1);
    let file = scratch.path().join("segment");
    fs::write(&file, "the bytes").unwrap();
    let created = store.create_from_file("log/s", &file, bytes("the bytes")).await.unwrap();
    assert_eq!(created, Created::Yes);
    let object = scratch.path().join("store/log/s");
    assert_eq!(fs::metadata(&object).unwrap().ino(), fs::metadata(&file).unwrap().ino());
    assert_eq!(store.create_from_file("log/s", &file, bytes("the bytes")).await.unwrap(), Created::Exists);
    // The write-ahead file may go; the object stays.
    fs::remove_file(&file).unwrap();
    assert_eq!(store.get("log/s").await.unwrap(), "the bytes");
}

#[tokio::test]
async fn a_file_elsewhere_or_of_another_length_or_gone_gives_the_payload() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(&scratch.path().join("store"), 1);
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = elsewhere.path().join("segment");
    fs::write(&file, "payload").unwrap();
    let short = scratch.path().join("short");
    fs::write(&short, "pay").unwrap();
    for (key, path) in [("a", file.as_path()), ("b", short.as_path()), ("c", Path::new("/no/such/file"))] {
        assert_eq!(store.create_from_file(key, path, bytes("payload")).await.unwrap(), Created::Yes);
        assert_eq!(store.get(key).await.unwrap(), "payload", "{key}");
    }
}

#[tokio::test]
async fn empty_directories_go_with_their_last_object() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path(), 1);
    store.put("log/s/0", bytes("x")).await.unwrap();
    store.put("log/s/1", bytes("x")).await.unwrap();
    store.delete("log/s/0").await.unwrap();
    assert!(scratch.path().join("log/s").exists());
    store.delete("log/s/1").await.unwrap();
    assert!(!scratch.path().join("log").exists());
    store.create("log/s/2", bytes("x")).await.unwrap();
    assert_eq!(keys(&store, "log/").await, ["log/s/2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_survive_directories_that_vanish_under_them() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Arc::new(open(scratch.path(), 1));
    let workers = (0..4).map(|worker| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let key = format!("d/e/{worker}-{round}");
                assert_eq!(store.create(&key, bytes("x")).await.unwrap(), Created::Yes);
                assert_eq!(store.get(&key).await.unwrap(), "x");
                store.delete(&key).await.unwrap();
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    assert!(keys(&store, "").await.is_empty());
}

#[tokio::test]
async fn a_root_that_vanished_is_an_error_not_an_empty_store() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("store");
    let store = open(&root, 1);
    store.put("k", bytes("x")).await.unwrap();
    fs::rename(&root, scratch.path().join("elsewhere")).unwrap();
    fs::create_dir(&root).unwrap();
    let environment = Some(ErrorKind::Environment);
    assert_eq!(store.get("k").await.err().map(|error| error.kind()), environment);
    assert_eq!(store.size("k").await.err().map(|error| error.kind()), environment);
    assert_eq!(store.create("j", bytes("x")).await.err().map(|error| error.kind()), environment);
    assert_eq!(store.put("j", bytes("x")).await.err().map(|error| error.kind()), environment);
    assert_eq!(store.delete("k").await.err().map(|error| error.kind()), environment);
    let listed: Result<Vec<_>, _> = store.list("", None).try_collect().await;
    assert_eq!(listed.err().map(|error| error.kind()), environment);
}

#[tokio::test]
async fn a_key_that_continues_another_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let store = open(scratch.path(), 1);
    store.put("a", bytes("x")).await.unwrap();
    let error = store.create("a/b", bytes("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    assert!(matches!(store.get("a/b").await.unwrap_err().kind(), ErrorKind::NotFound));
    store.put("c/d", bytes("x")).await.unwrap();
    assert_eq!(store.create("c", bytes("x")).await.unwrap_err().kind(), ErrorKind::Environment);
    assert_eq!(store.get("c").await.unwrap_err().kind(), ErrorKind::NotFound);
    store.delete("c").await.unwrap();
    assert_eq!(keys(&store, "").await, ["a", "c/d"]);
}

/// `/dev/full` refuses every byte with the error of a full disk; here only the words are judged.
#[test]
fn a_full_disk_is_named_and_may_be_repeated() {
    use std::io::Write as _;
    let error = fs::File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
    let error = crate::objstore::local::explain_for_tests("create", "k", Path::new("/data"), &error);
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert!(error.to_string().contains("no space left under '/data'"), "{error}");
}
