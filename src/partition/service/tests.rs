//! The log over real stores: append, commit, restart.

use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use uuid::Uuid;

use crate::base::{Clock, Rng, SessionId, Tasks, TopicPartition};
use crate::format::keys;
use crate::format::state::PartitionState;
use crate::objstore::ObjectStore;
use crate::objstore::local::LocalStore;
use crate::objstore::memory::MemoryStore;
use crate::partition::recovery::{RecoveryPlace, finish_stream};
use crate::partition::seal::seal_stream;
use crate::partition::{Acks, Isolation, Log, LogLimits, LogMetrics, LogOptions, ReadSource, WalFsync};
use crate::protocol::batch::{BatchHeader, build_batch};
use crate::wal::LocalDisk;

const PARTITION: TopicPartition = TopicPartition::new(Uuid::from_u128(7), 0);

fn session(epoch: u64) -> SessionId {
    SessionId { broker_id: 1, epoch }
}

async fn start(store: &Arc<dyn ObjectStore>, wal_root: Option<&Path>, epoch: u64, state: PartitionState) -> Log {
    let options = LogOptions {
        session: session(epoch),
        limits: LogLimits { flush_idle_us: 0, idle_cuts_per_s: 0, ..LogLimits::default() },
        disk: LocalDisk::shared(),
        wal_root: wal_root.map(Path::to_path_buf),
        wal_fsync: WalFsync::Group,
        hedge_after_ms: None,
        store: store.clone(),
        clock: Clock::system(),
        rng: Rng::seeded(epoch),
        tasks: Tasks::new(),
    };
    Log::start(options, vec![(PARTITION, epoch as i32, state)], LogMetrics::new(&mut Registry::default()))
        .await
        .unwrap()
}

async fn append(log: &Log, text: &str, acks: Acks) -> i64 {
    let batch = build_batch(&[(None, Some(text.to_owned().into()))], 1000);
    let header = BatchHeader::decode(&batch).unwrap();
    let permit = log.admit(batch.len(), 1000).await.unwrap();
    log.append(PARTITION, &header, &batch, acks, permit).wait().await.unwrap().base_offset
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_committed_and_readable() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Clock::system()));
    let log = start(&store, None, 1, PartitionState::default()).await;
    for expected in 0..100 {
        assert_eq!(append(&log, "hello", Acks::All).await, expected);
    }
    let plan = log.plan_read(PARTITION, 0, usize::MAX, Isolation::ReadUncommitted).unwrap();
    assert_eq!(plan.view.high_watermark, 100);
    let ReadSource::Memory(batches) = plan.source else { panic!("expected memory, got {:?}", plan.source) };
    let offsets: Vec<i64> = batches.iter().map(|batch| BatchHeader::decode(batch).unwrap().base_offset).collect();
    assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finishes_the_old_stream_and_goes_on_behind_it() {
    for local in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let wal_root = directory.path().join("wal");
        let store: Arc<dyn ObjectStore> = if local {
            Arc::new(LocalStore::open(&directory.path().join("objects"), &Rng::seeded(9)).unwrap())
        } else {
            Arc::new(MemoryStore::new(Clock::system()))
        };
        let log = start(&store, Some(&wal_root), 1, PartitionState::default()).await;
        append(&log, "all", Acks::All).await;
        append(&log, "leader", Acks::Leader).await;
        // No close: the process is gone. Its write-ahead files and what reached the store remain.
        log.0.tasks.stop().await;
        let place = RecoveryPlace {
            store: store.clone(),
            disk: LocalDisk::shared(),
            wal_root: wal_root.clone(),
            lost: directory.path().join("lost"),
            rng: Rng::seeded(5),
        };
        let finished = finish_stream(&place, session(1), |_, _| {}).await.unwrap();
        assert!(finished.stream.sealed && finished.lost_files.is_empty(), "{finished:?}");
        let again = finish_stream(&place, session(1), |_, _| {}).await.unwrap();
        assert_eq!(again.stream.next_seq, finished.stream.next_seq);
        let state = finished.stream.partitions[&PARTITION].clone();
        assert_eq!(state.next_offset, 2);
        assert_eq!(state, again.stream.partitions[&PARTITION]);
        let log = start(&store, Some(&wal_root), 2, state).await;
        assert_eq!(append(&log, "third", Acks::All).await, 2);
        log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_is_seen_behind_a_segment_whose_commit_is_not_applied_yet() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Clock::system()));
    let log = start(&store, None, 1, PartitionState::default()).await;
    append(&log, "one", Acks::All).await;
    assert!(log.is_current().await.unwrap());
    // An upload of this session has landed, its reply is on the way.
    let seq = log.progress().borrow().committed;
    let landed =
        bytes::Bytes::from_static(b"longer than a seal: any object that is none will do for the listing of a stream");
    store.put(&keys::segment(session(1), seq), landed.into()).await.unwrap();
    assert!(log.is_current().await.unwrap());
    assert_eq!(seal_stream(&store, &Rng::seeded(3), session(1)).await.unwrap(), seq + 1);
    assert!(!log.is_current().await.unwrap());
    assert!(log.probe_own_stream().await.unwrap(), "the next upload judges what stands at its place");
}
