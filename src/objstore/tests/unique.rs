use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::base::{Clock, Rng};
use crate::objstore::{
    CommitOutcome, CreatePolicy, LocalStore, MemoryStore, ObjectStore, Payload, create_unique, create_unique_from_file,
};

fn object(id: Uuid) -> Payload {
    let mut bytes = vec![7; 100];
    bytes[16..32].copy_from_slice(id.as_bytes());
    Bytes::from(bytes).into()
}

#[tokio::test]
async fn the_first_commits_again_and_again_and_the_second_sees_who_won() {
    let scratch = tempfile::tempdir().unwrap();
    let rng = Rng::seeded(5);
    let stores: [Arc<dyn ObjectStore>; 2] = [
        Arc::new(MemoryStore::new(Clock::system())),
        Arc::new(LocalStore::open(&scratch.path().join("store"), &rng).unwrap()),
    ];
    let policy = CreatePolicy::new(rng.clone());
    for store in stores {
        let (ours, theirs) = (rng.uuid(), rng.uuid());
        for _ in 0..2 {
            let outcome = create_unique(&store, "log/0", object(ours), ours, &policy).await.unwrap();
            assert_eq!(outcome, CommitOutcome::Committed);
        }
        let file = scratch.path().join("segment");
        std::fs::write(&file, &object(theirs).0[0]).unwrap();
        for _ in 0..2 {
            let outcome =
                create_unique_from_file(&store, "log/0", &file, object(theirs), theirs, &policy).await.unwrap();
            assert_eq!(outcome, CommitOutcome::LostTo(object(ours).0[0].slice(..64)));
        }
    }
}

#[tokio::test]
async fn a_short_stranger_is_a_loss_too() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Clock::system()));
    store.put("k", Bytes::from_static(b"short").into()).await.unwrap();
    let id = Rng::seeded(1).uuid();
    let outcome = create_unique(&store, "k", object(id), id, &CreatePolicy::new(Rng::seeded(2))).await.unwrap();
    assert_eq!(outcome, CommitOutcome::LostTo(Bytes::from_static(b"short")));
}

#[test]
fn the_id_is_where_the_format_puts_it() {
    use crate::base::SessionId;
    use crate::format::prelude::{ObjectKind, Prelude};
    let object_id = Rng::seeded(3).uuid();
    let session = SessionId { broker_id: 1, epoch: 2 };
    let prelude = Prelude { kind: ObjectKind::Seal, object_id, session, seq: 3 };
    assert_eq!(&prelude.encode()[crate::objstore::unique::PRELUDE_ID], object_id.as_bytes());
}
