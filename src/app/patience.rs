//! Steps of a start that wait for what is not there yet: etcd, the object store.
//!
//! Only steps that can be repeated whole may be handed over; what passes by itself is told from what does not by the kind of
//! the error.

#[cfg(test)]
mod tests;

use std::future::Future;

use crate::base::{Backoff, ErrorKind, Rng};
use crate::cluster::ClusterError;
use crate::meta::MetaError;
use crate::objstore::StoreError;

/// Pauses between two tries.
const PAUSES: Backoff = Backoff { first_ms: 200, most_ms: 5_000 };

/// Does `step`, again and again while its error is one that passes by itself. `say` hears what the start is at, or what it
/// waits for and why; the log hears it too, less and less often.
///
/// Dropping the future (a signal) ends the waiting.
pub async fn patiently<T, E, F>(
    what: &str,
    rng: &Rng,
    say: impl Fn(&str),
    mut step: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<T, E>>,
{
    say(what);
    let mut failures: u32 = 0;
    loop {
        let error: anyhow::Error = match step().await {
            Ok(done) => {
                if failures > 0 {
                    tracing::info!(failures, "{what}: it works now");
                    say(what);
                }
                return Ok(done);
            }
            Err(error) => error.into(),
        };
        if kind(&error) != Some(ErrorKind::Retriable) {
            return Err(error);
        }
        failures = failures.saturating_add(1);
        if failures.is_power_of_two() {
            tracing::warn!(failures, "{what} does not work yet: {error:#}; trying again");
        }
        say(&format!("{what}, waiting: {error:#}"));
        tokio::time::sleep(PAUSES.pause(failures, rng)).await;
    }
}

/// What to do about an error of a store or of what lies on it, however it is wrapped.
fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|cause| {
        let meta = cause.downcast_ref::<MetaError>().map(MetaError::kind);
        let store = cause.downcast_ref::<StoreError>().map(StoreError::kind);
        meta.or(store).or_else(|| cause.downcast_ref::<ClusterError>().map(ClusterError::kind))
    })
}
