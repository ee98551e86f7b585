//! What a reading call tells its client, within the credit that the client gives.
//!
//! Invariant: data goes out only while credit is left, one message at a time, so a client gets at most one message more than it
//! gave credit for. What costs nothing (ends, failures) goes out without.
//!
//! Every wait may be dropped: nothing is sent then, and nothing is lost.

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use super::Told;

/// The client has gone, or gives no more credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// See the module. `T` is what the call answers with.
#[derive(Debug)]
pub struct Outlet<T> {
    answers: mpsc::Sender<Result<T, Status>>,
    wrap: fn(Told) -> T,
    credit: Mutex<Credit>,
    changed: Notify,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Credit {
    /// Bytes that may still be sent; none if there is no limit.
    left: Option<i128>,
    /// No more will be given.
    closed: bool,
}

impl<T> Outlet<T> {
    /// Tells through `answers`; `credit_bytes` is what the client begins with, 0 for no limit.
    pub fn new(answers: mpsc::Sender<Result<T, Status>>, wrap: fn(Told) -> T, credit_bytes: u64) -> Self {
        let left = (credit_bytes > 0).then(|| i128::from(credit_bytes));
        let credit = Mutex::new(Credit { left, closed: false });
        Self { answers, wrap, credit, changed: Notify::new(), turn: tokio::sync::Mutex::new(()) }
    }

    /// Whether credit counts.
    pub fn is_limited(&self) -> bool {
        self.credit.lock().left.is_some()
    }

    /// The client gives credit.
    pub fn give(&self, bytes: u64) {
        if let Some(left) = &mut self.credit.lock().left {
            *left += i128::from(bytes);
        }
        self.changed.notify_waiters();
    }

    /// The client will give no more.
    pub fn close(&self) {
        self.credit.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Waits until there is credit; how many bytes are left.
    pub async fn room(&self) -> Result<usize, Gone> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let credit = self.credit.lock();
                match credit.left {
                    None => return Ok(usize::MAX),
                    Some(left) if left > 0 => return Ok(usize::try_from(left).unwrap_or(usize::MAX)),
                    Some(_) if credit.closed => return Err(Gone),
                    Some(_) => {}
                }
            }
            changed.await;
        }
    }

    /// Waits for credit and for the client to have taken what was told before.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, Gone> {
        let turn = self.turn.lock().await;
        self.room().await?;
        let place = self.answers.reserve().await.map_err(|_| Gone)?;
        Ok(Permit { outlet: self, place, _turn: turn })
    }

    /// Tells what costs no credit.
    pub async fn tell(&self, told: Told) -> Result<(), Gone> {
        self.answers.send(Ok((self.wrap)(told))).await.map_err(|_| Gone)
    }

    /// Tells anything else that the call answers.
    pub async fn say(&self, answer: Result<T, Status>) -> Result<(), Gone> {
        self.answers.send(answer).await.map_err(|_| Gone)
    }

    /// Waits until the client has taken what was told before, for something that costs no credit.
    pub async fn slot(&self) -> Result<mpsc::Permit<'_, Result<T, Status>>, Gone> {
        self.answers.reserve().await.map_err(|_| Gone)
    }

    /// Resolves when nobody takes answers any more.
    pub async fn gone(&self) {
        self.answers.closed().await;
    }
}

/// The right to send one message of data.
#[derive(Debug)]
pub struct Permit<'a, T> {
    outlet: &'a Outlet<T>,
    place: mpsc::Permit<'a, Result<T, Status>>,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl<T> Permit<'_, T> {
    /// Sends data that costs `bytes`.
    pub fn send(self, data: Told, bytes: u64) {
        if let Some(left) = &mut self.outlet.credit.lock().left {
            *left -= i128::from(bytes);
        }
        self.place.send(Ok((self.outlet.wrap)(data)));
    }
}
