#![allow(clippy::unwrap_used)]

mod house;
mod per_ip;
mod wire;
mod words;
