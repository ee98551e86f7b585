//! What an error of the S3 client means. The client keeps its status codes to itself, so they are read from its words;
//! `tests/s3.rs` plays the answers that matter to the pinned version.

use object_store::Error;

use super::credentials::NoCredentials;

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is no such object.
    NotFound,
    /// It may go away by itself; a write may have happened.
    Passing(String),
    /// It will not.
    Final(String),
}

/// Longest part of an unknown error text that is repeated, in bytes.
const REASON_BYTES_MAX: usize = 400;

pub(crate) fn trouble(error: &Error) -> Trouble {
    if let Error::Generic { source, .. } = error
        && let Some(missing) = source.downcast_ref::<NoCredentials>()
    {
        let reason = missing.to_string();
        return if missing.passing { Trouble::Passing(reason) } else { Trouble::Final(reason) };
    }
    let text = error.to_string();
    let code = tag(&text, "Code");
    let reason = summary(error);
    match (error, status(&text), code) {
        (_, _, Some("NoSuchBucket")) => Trouble::Final(format!("{reason}; was the bucket deleted?")),
        // S3 says 400 to a connection that was too slow, and to credentials that ended under way.
        (_, _, Some("RequestTimeout" | "ExpiredToken" | "SlowDown" | "InternalError")) => Trouble::Passing(reason),
        (_, _, Some("RequestTimeTooSkewed")) => Trouble::Final(format!("{reason}; set this machine's clock")),
        (Error::NotFound { .. }, _, _) => Trouble::NotFound,
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _, _) => {
            Trouble::Final(format!("{reason}; check the credentials and the bucket's policy"))
        }
        (_, Some(301 | 307), _) => Trouble::Final(format!("{reason}; the bucket is in another region: set AWS_REGION")),
        (_, Some(408 | 409 | 425 | 429 | 500..=599), _) => Trouble::Passing(reason),
        (Error::Generic { .. }, None, _) if text.contains("incorrectly configured region") => {
            Trouble::Final(format!("{reason}; set AWS_REGION"))
        }
        (_, Some(300..=499), _)
        | (
            Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::UnknownConfigurationKey { .. },
            ..,
        ) => Trouble::Final(reason),
        _ => Trouble::Passing(reason),
    }
}

/// Whether this reason is S3's refusal of a range that starts at or after the object's end (416).
pub(crate) fn is_range_past_end(reason: &str) -> bool {
    reason.contains("416") || reason.contains("InvalidRange")
}

/// The error in one short line: status, S3's code and message where there are any.
pub(crate) fn summary(error: &Error) -> String {
    let text = error.to_string();
    if let Some(code) = tag(&text, "Code") {
        let message = tag(&text, "Message").unwrap_or("no message");
        return match status(&text) {
            Some(status) => format!("{status} {code}: {message}"),
            None => format!("{code}: {message}"),
        };
    }
    // The innermost cause says "connection refused", the outer ones where.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let innermost = cause.to_string();
    let all = if text.contains(&innermost) { text } else { format!("{text}: {innermost}") };
    let mut end = all.len().min(REASON_BYTES_MAX);
    while !all.is_char_boundary(end) {
        end -= 1;
    }
    all[..end].trim_end().to_owned()
}

/// The HTTP status that the client mentions.
fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

/// The text of an XML element of S3's error body.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    Some(after.split_once(&format!("</{name}>"))?.0)
}
