//! Tests of the parts; the behaviour of whole stores is in `tests/contract/objstore.rs`.

mod backoff;
mod key;
mod local;
mod open;
mod s3;
mod unique;
