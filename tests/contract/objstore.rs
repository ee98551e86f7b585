//! What every object store does. Each rule is a function over the trait; each lane runs them all on one store.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;

use esker::base::{Backoff, Clock, ErrorKind, Rng};
use esker::objstore::fault::{Chances, Fault, FaultStore, Faults, Rule};
use esker::objstore::retry::{RetryPolicy, RetryStore};
use esker::objstore::s3::create_bucket;
use esker::objstore::{
    CommitOutcome, CreatePolicy, Created, Metrics, ObjectMeta, ObjectStore, OpenOptions, Operation, Payload,
    ProbeOptions, S3Options, create_unique, create_unique_from_file, open, probe,
};

type Store = Arc<dyn ObjectStore>;

/// A store under test and a part of it that is ours alone.
struct Lane {
    store: Store,
    base: String,
}

impl Lane {
    fn new(name: &str, server: &str, store: Store) -> Self {
        println!("lane {name}: {server} ({store:?})");
        Self { store, base: format!("contract/{}", Rng::system().uuid().simple()) }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Vec<ObjectMeta> {
        self.store.list(&self.key(prefix), after.map(|after| self.key(after)).as_deref()).try_collect().await.unwrap()
    }

    async fn names(&self, prefix: &str, after: Option<&str>) -> Vec<String> {
        let base = self.key("");
        self.list(prefix, after).await.into_iter().map(|object| object.key[base.len()..].to_owned()).collect()
    }
}

fn bytes(text: &str) -> Payload {
    Bytes::from(text.to_owned()).into()
}

async fn run_all(lane: &Lane) {
    let asked = ProbeOptions { marker: None, clock: Clock::system(), rng: Rng::system() };
    let report = probe(&lane.store, &asked).await.unwrap();
    println!("  the start-up probe accepts it: {report:?}");
    what_is_put_is_read(lane).await;
    ranges_are_half_open_and_cut(lane).await;
    absent_keys_are_named(lane).await;
    create_takes_only_free_keys(lane).await;
    racing_creates_have_one_winner(lane).await;
    racing_unique_creates_agree(lane).await;
    listing_is_ordered_and_bounded(lane).await;
    a_long_listing_is_whole(lane).await;
    large_payloads_of_many_chunks(lane).await;
    files_become_objects(lane).await;
    bad_keys_are_refused(lane).await;
    everything_can_be_deleted(lane).await;
}

async fn what_is_put_is_read(lane: &Lane) {
    let key = lane.key("put/a");
    let payload = Payload(vec![Bytes::from_static(b"he"), Bytes::new(), Bytes::from_static(b"llo")]);
    lane.store.put(&key, payload).await.unwrap();
    assert_eq!(lane.store.get(&key).await.unwrap(), "hello");
    assert_eq!(lane.store.size(&key).await.unwrap(), 5);
    lane.store.put(&key, bytes("again")).await.unwrap();
    assert_eq!(lane.store.get(&key).await.unwrap(), "again");
    lane.store.put(&key, Payload::default()).await.unwrap();
    assert_eq!(lane.store.get(&key).await.unwrap(), "");
    assert_eq!(lane.store.size(&key).await.unwrap(), 0);
}

async fn ranges_are_half_open_and_cut(lane: &Lane) {
    let key = lane.key("range/a");
    lane.store.put(&key, bytes("0123456789")).await.unwrap();
    for (range, expected) in [
        (0..10, "0123456789"),
        (0..1, "0"),
        (3..7, "3456"),
        (7..100, "789"),
        (9..10, "9"),
        (10..20, ""),
        (50..60, ""),
        (4..4, ""),
        (0..u64::MAX, "0123456789"),
        (5..u64::MAX, "56789"),
    ] {
        assert_eq!(lane.store.get_range(&key, range.clone()).await.unwrap(), expected, "{range:?}");
    }
    let empty = lane.key("range/empty");
    lane.store.put(&empty, Payload::default()).await.unwrap();
    assert_eq!(lane.store.get_range(&empty, 0..64).await.unwrap(), "");
}

async fn absent_keys_are_named(lane: &Lane) {
    let key = lane.key("absent/a");
    let store = &lane.store;
    for error in [
        store.get(&key).await.unwrap_err(),
        store.get_range(&key, 0..5).await.unwrap_err(),
        store.size(&key).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("absent/a"), "{error}");
    }
    store.delete(&key).await.unwrap();
    assert!(lane.list("absent/", None).await.is_empty());
}

async fn create_takes_only_free_keys(lane: &Lane) {
    let key = lane.key("create/a");
    assert_eq!(lane.store.create(&key, bytes("first")).await.unwrap(), Created::Yes);
    assert_eq!(lane.store.create(&key, bytes("second")).await.unwrap(), Created::Exists);
    assert_eq!(lane.store.get(&key).await.unwrap(), "first");
    lane.store.put(&key, bytes("third")).await.unwrap();
    assert_eq!(lane.store.create(&key, bytes("fourth")).await.unwrap(), Created::Exists);
    lane.store.delete(&key).await.unwrap();
    assert_eq!(lane.store.create(&key, bytes("fifth")).await.unwrap(), Created::Yes);
    assert_eq!(lane.store.get(&key).await.unwrap(), "fifth");
}

async fn racing_creates_have_one_winner(lane: &Lane) {
    for round in 0..20 {
        let key = lane.key(&format!("race/{round}"));
        let contenders = (0..16).map(|contender| {
            let (store, key) = (lane.store.clone(), key.clone());
            tokio::spawn(async move { store.create(&key, bytes(&format!("contender {contender}"))).await })
        });
        let answers: Vec<_> =
            futures::future::join_all(contenders).await.into_iter().map(|joined| joined.unwrap()).collect();
        let won = |answer: &Result<Created, _>| matches!(answer, Ok(Created::Yes));
        let winners: Vec<_> = (0..16).filter(|at| won(&answers[*at])).collect();
        assert_eq!(winners.len(), 1, "round {round}: {answers:?}");
        assert_eq!(lane.store.get(&key).await.unwrap(), format!("contender {}", winners[0]));
        for answer in answers {
            // An operation in flight may be reported; nothing else.
            assert!(answer.as_ref().map_or_else(|error| error.kind() == ErrorKind::Retriable, |_| true), "{answer:?}");
        }
    }
}

/// Bytes that begin as every durable object does, as far as the id goes.
fn unique(id: uuid::Uuid, length: usize) -> Payload {
    let mut object = vec![0; length.max(64)];
    object[16..32].copy_from_slice(id.as_bytes());
    Bytes::from(object).into()
}

async fn racing_unique_creates_agree(lane: &Lane) {
    let rng = Rng::system();
    let policy = CreatePolicy { hedge_after_ms: Some(1), ..CreatePolicy::new(rng.clone()) };
    for round in 0..5 {
        let key = lane.key(&format!("unique/{round}"));
        let contenders = (0..8).map(|_| {
            let (store, key, policy, id) = (lane.store.clone(), key.clone(), policy.clone(), rng.uuid());
            tokio::spawn(
                async move { (id, create_unique(&store, &key, unique(id, 200_000), id, &policy).await.unwrap()) },
            )
        });
        let outcomes: Vec<_> =
            futures::future::join_all(contenders).await.into_iter().map(|joined| joined.unwrap()).collect();
        let stored = lane.store.get_range(&key, 0..64).await.unwrap();
        let mut committed = 0;
        for (id, outcome) in outcomes {
            match outcome {
                CommitOutcome::Committed => {
                    assert_eq!(&stored[16..32], id.as_bytes());
                    committed += 1;
                }
                CommitOutcome::LostTo(prelude) => assert_eq!(prelude, stored),
            }
        }
        assert_eq!(committed, 1, "round {round}");
    }
}

async fn listing_is_ordered_and_bounded(lane: &Lane) {
    let names = ["l/a", "l/a-b/c", "l/a.b", "l/a0", "l/ab/1", "l/ab/10", "l/ab/2", "l/b", "m/x"];
    for name in names.iter().rev() {
        lane.store.put(&lane.key(name), bytes(name)).await.unwrap();
    }
    // Byte order: '-' and '.' come before '/', letters and digits after.
    assert_eq!(lane.names("l/", None).await, names[..8]);
    assert_eq!(lane.names("", Some("l/b")).await.last().unwrap(), "unique/4");
    assert_eq!(lane.names("l/a", None).await, names[..7]);
    assert_eq!(lane.names("l/ab/1", None).await, ["l/ab/1", "l/ab/10"]);
    assert_eq!(lane.names("l/ab/", Some("l/ab/1")).await, ["l/ab/10", "l/ab/2"]);
    assert_eq!(lane.names("l/", Some("l/a.")).await, names[2..8]);
    assert_eq!(lane.names("l/", Some("l/ab/")).await, names[4..8]);
    assert_eq!(lane.names("l/ab/", Some("l/a")).await, names[4..7]);
    assert!(lane.names("l/", Some("m")).await.is_empty());
    assert!(lane.names("l/ab/2/", None).await.is_empty());
    assert!(lane.names("none", None).await.is_empty());
    let listed = lane.list("l/ab/10", None).await;
    assert_eq!(listed[0].size_bytes, 7);
    let age_ms = Clock::system().wall_ms() - listed[0].modified_ms;
    assert!((-60_000..600_000).contains(&age_ms), "{age_ms} ms old");
}

/// More keys than S3 gives in one answer.
async fn a_long_listing_is_whole(lane: &Lane) {
    const KEYS: usize = 1_050;
    let puts = (0..KEYS).map(|at| async move { lane.store.put(&lane.key(&format!("many/{at:05}")), bytes("x")).await });
    futures::TryStreamExt::try_collect::<Vec<()>>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(puts),
        16,
    ))
    .await
    .unwrap();
    let names = lane.names("many/", None).await;
    assert_eq!(names.len(), KEYS);
    assert!(names.is_sorted());
    assert_eq!(lane.names("many/", Some("many/00999")).await.len(), KEYS - 1_000);
}

async fn large_payloads_of_many_chunks(lane: &Lane) {
    let chunks: Vec<Bytes> = (0..=255_u8).map(|value| Bytes::from(vec![value; 48_000])).collect();
    let payload = Payload(chunks);
    let key = lane.key("large/a");
    assert_eq!(lane.store.create(&key, payload.clone()).await.unwrap(), Created::Yes);
    let whole = lane.store.get(&key).await.unwrap();
    assert_eq!(whole.len() as u64, payload.len());
    assert!(whole.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at / 48_000));
    let seam = lane.store.get_range(&key, 47_999..48_001).await.unwrap();
    assert_eq!(seam, &[0, 1][..]);
}

async fn files_become_objects(lane: &Lane) {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("cut.wal");
    let rng = Rng::system();
    let id = rng.uuid();
    let payload = unique(id, 300_000);
    std::fs::write(&file, &payload.0[0]).unwrap();
    let key = lane.key("file/a");
    let policy = CreatePolicy::new(rng);
    for _ in 0..2 {
        let outcome = create_unique_from_file(&lane.store, &key, &file, payload.clone(), id, &policy).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Committed);
    }
    assert_eq!(lane.store.create_from_file(&key, &file, payload.clone()).await.unwrap(), Created::Exists);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(lane.store.get(&key).await.unwrap(), payload.0[0]);
}

async fn bad_keys_are_refused(lane: &Lane) {
    for key in ["", "/x", "x/", "x//y", "../x", "x/../../y", ".tmp/x", "sp ace", "x\n"] {
        let error = lane.store.get(key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{key:?}: {error}");
        assert_eq!(lane.store.put(key, bytes("x")).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(lane.store.create(key, bytes("x")).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(lane.store.delete(key).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

async fn everything_can_be_deleted(lane: &Lane) {
    let names = lane.names("", None).await;
    assert!(names.len() > 1_000);
    let deletes = names.iter().map(|name| async move { lane.store.delete(&lane.key(name)).await });
    futures::TryStreamExt::try_collect::<Vec<()>>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(deletes),
        16,
    ))
    .await
    .unwrap();
    assert!(lane.names("", None).await.is_empty());
    assert_eq!(lane.store.get(&lane.key("put/a")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

fn options() -> OpenOptions {
    OpenOptions::new(Clock::system(), Rng::system())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    let store = open("memory://", options()).await.unwrap();
    run_all(&Lane::new("objstore/memory", "this process", store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local() {
    let scratch = tempfile::tempdir().unwrap();
    let url = format!("file://{}/store", scratch.path().display());
    let store = open(&url, options()).await.unwrap();
    run_all(&Lane::new("objstore/file", &url, store)).await;
}

/// Trouble in front of everything that may be repeated, hidden by the retrying layer. Creates are only delayed: their
/// doubts belong to their callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faulty_memory_behind_retries() {
    let memory = open("memory://", options()).await.unwrap();
    let faults = Faults::new(Rng::system());
    faults.set_chances(Chances { delay: 0.05, delay_ms_max: 2, ..Chances::default() });
    let idempotent = [Operation::get, Operation::size, Operation::put, Operation::delete, Operation::list];
    for (at, operation) in idempotent.into_iter().cycle().take(300).enumerate() {
        let fault = match at % 3 {
            0 => Fault::Unavailable,
            1 => Fault::LostReply,
            _ => Fault::BreakAfter(at % 40),
        };
        let skip = if operation == Operation::list { at / 15 } else { at };
        faults.add(Rule { skip: skip as u32, ..Rule::once(operation, "", fault) });
    }
    let breaking = Arc::new(FaultStore::new(memory, faults));
    let policy = RetryPolicy { attempts: 20, backoff: Backoff { first_ms: 1, most_ms: 5 }, ..RetryPolicy::default() };
    let metrics = Metrics::detached();
    let store = RetryStore::new(breaking, policy, Clock::system(), Rng::system(), metrics);
    run_all(&Lane::new("objstore/faulty", "this process", Arc::new(store))).await;
}

/// The S3 server that `tests/support/minio.sh run` started, if any.
struct Server {
    endpoint: String,
    name: String,
}

/// None only if nobody asked for S3; a lane that requires it fails instead of passing by skipping.
fn s3_server() -> Option<Server> {
    let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = setting("ESKER_TEST_S3_ENDPOINT") else {
        assert!(
            setting("ESKER_TEST_S3").as_deref() != Some("required"),
            "ESKER_TEST_S3=required but ESKER_TEST_S3_ENDPOINT is not set: start with tests/support/minio.sh run"
        );
        println!("lane objstore/s3: NOT RUN, no server (tests/support/minio.sh run cargo test --test contract)");
        return None;
    };
    let name = setting("ESKER_TEST_S3_SERVER").unwrap_or_else(|| "unnamed server".to_owned());
    Some(Server { endpoint, name })
}

fn s3_options(server: &Server) -> OpenOptions {
    let s3 = S3Options { endpoint: Some(server.endpoint.clone()), ..S3Options::default() };
    OpenOptions { s3, ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s3() {
    let Some(server) = s3_server() else { return };
    let options = s3_options(&server);
    create_bucket("esker-contract", &options.s3).await.unwrap();
    create_bucket("esker-contract", &options.s3).await.unwrap();
    let store = open("s3://esker-contract/some/prefix", options.clone()).await.unwrap();
    let lane = Lane::new("objstore/s3", &format!("{} at {}", server.name, server.endpoint), store);
    run_all(&lane).await;

    // The prefix is part of the stored key, and only of that.
    lane.store.put("seen", bytes("x")).await.unwrap();
    let whole = open("s3://esker-contract", options).await.unwrap();
    assert_eq!(whole.get("some/prefix/seen").await.unwrap(), "x");
    let keys: Vec<ObjectMeta> = whole.list("some/prefix/s", None).try_collect().await.unwrap();
    assert_eq!(keys.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["some/prefix/seen"]);
}

#[tokio::test]
async fn s3_troubles_are_named() {
    let Some(server) = s3_server() else { return };
    let error = open("s3://esker-no-such-bucket", s3_options(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let words = error.to_string();
    assert!(words.contains("'esker-no-such-bucket' does not exist") && words.contains("s3 mb"), "{words}");
    assert!(words.contains(&server.endpoint), "{words}");
}

#[tokio::test]
async fn an_s3_server_that_is_not_there_is_retriable_and_named() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let error =
        open("s3://bucket", s3_options(&Server { endpoint: endpoint.clone(), name: String::new() })).await.unwrap_err();
    println!("{error}");
    assert!(error.to_string().contains(&endpoint) || error.to_string().contains("redentials"), "{error}");
}
