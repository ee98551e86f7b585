#![allow(clippy::disallowed_methods, reason = "paused time is measured by its own clock")]

mod damage;
mod local_first;
mod local_store;
mod model;
mod properties;
mod session;
mod spans;
mod timestamps;
