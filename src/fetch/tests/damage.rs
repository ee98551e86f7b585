//! Damaged, missing and unreachable objects.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::model::{Setup, batch, header, simple, tp};
use crate::base::ErrorKind;
use crate::fetch::{FetchError, FetchRequest, PartitionRequest};
use crate::partition::Isolation::ReadUncommitted;
use crate::protocol::batch::Compression;

fn two_partitions() -> Setup {
    let setup = simple(2);
    for object in 0..3 {
        for partition in [0, 1, 0] {
            setup.log.append(tp(partition), batch(&[object, object + 1], 100, Compression::None));
        }
        setup.log.commit();
    }
    for partition in 0..2 {
        setup.log.evict(tp(partition), i64::MAX);
    }
    setup
}

fn key(setup: &Setup, at: usize) -> String {
    setup.log.store.objects.lock().keys().nth(at).unwrap().clone()
}

fn length(setup: &Setup, at: usize) -> usize {
    let key = key(setup, at);
    setup.log.store.objects.lock()[&key].len()
}

fn damage(setup: &Setup, object: usize, change: impl FnOnce(&mut Vec<u8>)) {
    let key = key(setup, object);
    let mut objects = setup.log.store.objects.lock();
    let mut bytes = objects[&key].to_vec();
    change(&mut bytes);
    objects.insert(key, bytes.into());
}

fn all(partitions: i32) -> FetchRequest {
    let partition = |partition| PartitionRequest {
        partition: tp(partition),
        offset: 0,
        max_bytes: 1 << 20,
        current_leader_epoch: -1,
    };
    FetchRequest {
        partitions: (0..partitions).map(partition).collect(),
        min_bytes: 1,
        max_bytes: 1 << 20,
        max_wait_ms: 0,
        isolation: ReadUncommitted,
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_batch_is_an_error_of_that_partition_and_offset_alone() {
    let setup = two_partitions();
    // Object 1 holds offsets 4..8 of partition 0; its first frame begins at 64.
    damage(&setup, 1, |bytes| bytes[64 + 40 + 70] ^= 1);
    let answers = setup.fetches.fetch(&all(2)).await;
    let first = answers[0].result.as_ref().unwrap();
    assert_eq!((first.batches.len(), first.next_offset), (2, 4), "what lies before the damage");
    assert_eq!(answers[1].result.as_ref().unwrap().batches.len(), 3, "the neighbour is untouched");

    let error = setup.reader.read(tp(0), 4, 1 << 20, ReadUncommitted, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let FetchError::Corrupt { object, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((&**object, *offset), (key(&setup, 1).as_str(), 4));
    assert_eq!(setup.metrics.corrupt.get(), 1);
    // Behind the damage reading goes on.
    assert_eq!(setup.reader.read(tp(0), 6, 1 << 20, ReadUncommitted, true).await.unwrap().next_offset, 12);
}

#[tokio::test]
async fn every_single_flipped_byte_is_found_or_harmless() {
    let reference = two_partitions();
    let whole = reference.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap().batches;
    for at in 0..length(&reference, 0) {
        let setup = two_partitions();
        damage(&setup, 0, |bytes| bytes[at] ^= 0x10);
        match setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await {
            Ok(read) => assert_eq!(read.batches, whole[..read.batches.len()], "byte {at}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}"),
        }
    }
}

#[tokio::test]
async fn every_truncation_is_found() {
    for keep in 0..length(&two_partitions(), 0) {
        let setup = two_partitions();
        damage(&setup, 0, |bytes| bytes.truncate(keep));
        let error = setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{keep} bytes: {error}");
    }
}

#[tokio::test]
async fn damage_in_the_cache_alone_is_healed_by_reading_again() {
    // The first GET is damaged: footer, then batch.
    for (flips, warm) in [(1, false), (1, true)] {
        let setup = two_partitions();
        if warm {
            setup.reader.read(tp(1), 0, 1, ReadUncommitted, true).await.unwrap();
            let key = key(&setup, 0);
            setup.objects.invalidate(&key, 0..1000);
        }
        setup.log.store.flips.store(flips, Ordering::SeqCst);
        let read = setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap();
        assert_eq!(read.next_offset, 12);
        assert!(setup.metrics.rereads.get() >= 1);
        assert_eq!(setup.metrics.corrupt.get(), 0);
    }
}

#[tokio::test]
async fn a_missing_object_names_itself_and_spares_the_others() {
    let setup = two_partitions();
    setup.log.append(tp(1), batch(&[9], 10, Compression::None));
    setup.log.commit();
    let gone = key(&setup, 0);
    setup.log.store.objects.lock().remove(&gone);
    let mut request = all(2);
    request.partitions[1].offset = 6;
    let answers = setup.fetches.fetch(&request).await;
    let error = answers[0].result.as_ref().unwrap_err();
    assert!(matches!(error, FetchError::Missing { offset: 0, .. }), "{error}");
    assert!(error.to_string().contains(&gone));
    assert_eq!(answers[1].result.as_ref().unwrap().batches.len(), 1);
    assert_eq!(setup.metrics.missing.get(), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_retriable_and_memory_is_still_served() {
    let setup = two_partitions();
    setup.log.append(tp(1), batch(&[9], 10, Compression::None));
    setup.log.commit();
    setup.log.store.down.store(true, Ordering::SeqCst);
    let error = setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retriable);
    assert_eq!(setup.reader.read(tp(1), 6, 1 << 20, ReadUncommitted, true).await.unwrap().batches.len(), 1);
    setup.log.store.down.store(false, Ordering::SeqCst);
    setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap();
}

#[tokio::test]
async fn an_object_swapped_for_another_whole_one_is_found() {
    let setup = two_partitions();
    let (first, second) = (key(&setup, 0), key(&setup, 1));
    let other = setup.log.store.objects.lock()[&second].clone();
    setup.log.store.objects.lock().insert(first, other);
    let error = setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn memory_that_does_not_join_is_an_error_not_a_gap() {
    let setup = simple(1);
    for _ in 0..3 {
        setup.log.append(tp(0), batch(&[1], 10, Compression::None));
    }
    setup.log.commit();
    setup.log.change(tp(0), |part| {
        part.batches.remove(1);
    });
    let read = setup.reader.read(tp(0), 0, 1 << 20, ReadUncommitted, true).await.unwrap();
    assert_eq!(read.batches.iter().map(|batch: &Bytes| header(batch).base_offset).collect::<Vec<_>>(), vec![0]);
    let error = setup.reader.read(tp(0), 1, 1 << 20, ReadUncommitted, true).await.unwrap_err();
    assert!(matches!(error, FetchError::Seam { expected: 1, found: 2, .. }), "{error}");
    assert!(setup.metrics.seams.get() >= 2);
}
