//! The names of the requests, as labels, rules and messages use them.

use prometheus_client::encoding::EncodeLabelValue;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label values")]
pub enum Operation {
    /// Whole objects and ranges.
    get,
    /// Length of an object.
    size,
    /// Write, replacing.
    put,
    /// Write if the key is free.
    create,
    /// Remove.
    delete,
    /// One listing (of any number of pages).
    list,
}
