#![allow(clippy::unwrap_used)]

pub mod house;
mod listeners;
mod others;
mod wire;
mod words;
