#![allow(clippy::unwrap_used)]

mod house;
mod others;
mod per_ip;
mod wire;
mod words;
