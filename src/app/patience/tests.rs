use std::cell::{Cell, RefCell};

use anyhow::Context as _;

use super::patiently;
use crate::base::Rng;
use crate::cluster::ClusterError;
use crate::meta::MetaError;
use crate::objstore::StoreError;

fn absent() -> MetaError {
    MetaError::Unavailable { operation: "get", reason: "connection refused".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_waited_for_and_said() {
    let (tries, said) = (Cell::new(0), RefCell::new(Vec::new()));
    let errors = [
        || anyhow::Error::from(absent()),
        || anyhow::Error::from(ClusterError::from(absent())).context("reading"),
        || {
            let error = StoreError::Unavailable { operation: "get", key: "a".to_owned(), reason: "503".to_owned() };
            Err::<(), _>(error).context("object 'a'").unwrap_err()
        },
    ];
    let rng = Rng::seeded(1);
    let done = patiently(
        "opening",
        &rng,
        |text| said.borrow_mut().push(text.to_owned()),
        || {
            let at = tries.get();
            tries.set(at + 1);
            let answer = errors.get(at).map_or(Ok(at), |error| Err(error()));
            async move { answer }
        },
    );
    assert_eq!(done.await.unwrap(), 3);
    let said = said.into_inner();
    assert_eq!((said[0].as_str(), said[4].as_str()), ("opening", "opening"));
    assert!(said[1].starts_with("opening, waiting: ") && said[1].contains("connection refused"), "{said:?}");
    assert!(said[3].contains("object 'a'") && said[3].contains("503"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_is_not() {
    for error in [
        anyhow::anyhow!("anything"),
        MetaError::Environment("full".to_owned()).into(),
        ClusterError::WrongCluster("another".to_owned()).into(),
        StoreError::Config("no such bucket".to_owned()).into(),
    ] {
        let (text, mut once) = (error.to_string(), Some(error));
        let step = || {
            let error = once.take().expect("one try");
            async { Err::<(), _>(error) }
        };
        let failed = patiently("opening", &Rng::seeded(1), |_| (), step).await.unwrap_err();
        assert_eq!(failed.to_string(), text);
    }
}
