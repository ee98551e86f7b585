//! What the far end of a way remembers, so that batches stay in order when a leader refuses one of many that are under way.
//!
//! The near end numbers its attempts: after a failure it waits for everything that is under way, and sends it again under the
//! next number. So what comes with the number of a refused batch, or with a lower one, was sent behind that batch before anybody
//! knew of the refusal; were it written, it would stand in the log before the batch that it follows.

use parking_lot::Mutex;

use super::Failure;
use crate::protocol::grpc::v1::Error;

/// The newest refusal of one partition's batches within a call.
#[derive(Debug, Default)]
pub struct Refused(Mutex<Option<(u64, Error)>>);

impl Refused {
    /// A batch of this attempt was not written, because of `error`. Attempt 0 is a batch without a number.
    pub fn note(&self, attempt: u64, error: &Error) {
        if attempt > 0 && Failure::at_the_leader(error.clone()).unwritten {
            *self.0.lock() = Some((attempt, error.clone()));
        }
    }

    /// Why a batch of this attempt is not to be written.
    pub fn of(&self, attempt: u64) -> Option<Error> {
        self.0.lock().as_ref().filter(|(refused, _)| (1..=*refused).contains(&attempt)).map(|(_, error)| error.clone())
    }
}
