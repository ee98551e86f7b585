#![allow(clippy::unwrap_used)]

mod house;
mod listeners;
mod others;
mod per_ip;
mod wire;
mod words;
