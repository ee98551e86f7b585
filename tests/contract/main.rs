//! One suite per trait, run on every implementation of it.

mod objstore;
