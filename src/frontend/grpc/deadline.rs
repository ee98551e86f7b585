//! How long a client waits for a call (`grpc-timeout`, gRPC over HTTP/2).
//!
//! The server itself obeys it for calls with one answer. A call that streams its answers ends when the client resets it at its
//! deadline; this is for clients that do not.

use std::time::Duration;

use tonic::metadata::MetadataMap;

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
pub async fn within(limit: Option<Duration>, call: impl Future<Output = ()>) {
    match limit {
        None => call.await,
        Some(limit) => {
            // What is not done by then has nobody waiting for it.
            let _ = tokio::time::timeout(limit + Duration::from_millis(GRACE_MS), call).await;
        }
    }
}
