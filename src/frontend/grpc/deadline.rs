//! How long a client waits for a call (`grpc-timeout`, gRPC over HTTP/2).
//!
//! The server itself obeys it for calls with one answer. A call that streams its answers ends when the client resets it at its
//! deadline; this is for clients that do not.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::errors::to_status;
use crate::protocol::grpc::v1::{Error, Reason};

/// Clients and brokers do not begin to count at the same moment, in milliseconds.
const GRACE_MS: u64 = 500;

/// The time that the client gives the call; none for as long as it lives, or if it cannot be read.
pub fn of(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Runs `call` to its end, or until `limit` (and a little more) has passed.
///
/// Errors: the limit has passed; this is what the client is to be told.
pub async fn within<T>(limit: Option<Duration>, call: impl Future<Output = T>) -> Result<T, Status> {
    match limit {
        None => Ok(call.await),
        Some(limit) => {
            let limit = limit + Duration::from_millis(GRACE_MS);
            tokio::time::timeout(limit, call).await.map_err(|_| to_status(&passed()))
        }
    }
}

fn passed() -> Error {
    let message = "the time that the client gave the call is up (grpc-timeout)".to_owned();
    Error { reason: Reason::TimedOut.into(), message, retriable: true, leader: None }
}
