#![allow(clippy::unwrap_used)]

mod house;
mod wire;
mod words;
