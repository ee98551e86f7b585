#![allow(clippy::unwrap_used)]

mod house;
mod listeners;
mod others;
mod wire;
mod words;
