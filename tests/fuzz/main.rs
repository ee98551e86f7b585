//! Every fuzz target on valid inputs, on damaged ones and on noise. `make fuzz` searches further, guided by coverage.
//!
//! `ESKER_SEED` repeats a run; `ESKER_FUZZ_INPUTS` sets the inputs per target.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod seeds;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use esker::base::Rng;

const DEFAULT_INPUTS: u64 = 20_000;
const MAX_NOISE_BYTES: u64 = 400;

/// Numbers that decoders get wrong.
const HOSTILE: &[&[u8]] = &[
    &[0x00],
    &[0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

fn damaged(seeds: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    let mut input = seeds[rng.below(seeds.len() as u64) as usize].clone();
    for _ in 0..=rng.below(4) {
        let at = rng.below(input.len() as u64 + 1) as usize;
        match rng.below(6) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] ^= 1 << rng.below(8),
            2 if at < input.len() => input[at] = rng.u64() as u8,
            3 => {
                for (to, from) in input[at..].iter_mut().zip(HOSTILE[rng.below(HOSTILE.len() as u64) as usize]) {
                    *to = *from;
                }
            }
            4 => {
                let other = &seeds[rng.below(seeds.len() as u64) as usize];
                let from = rng.below(other.len() as u64 + 1) as usize;
                let end = from + rng.below((other.len() - from) as u64 + 1) as usize;
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let end = at + rng.below((input.len() - at) as u64 + 1) as usize;
                input.drain(at..end);
            }
        }
    }
    input
}

fn noise(rng: &Rng) -> Vec<u8> {
    (0..rng.below(MAX_NOISE_BYTES)).map(|_| rng.u64() as u8).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn every_target_survives_damage_and_noise() {
    let seed = number("ESKER_SEED").unwrap_or_else(|| Rng::system().u64());
    let inputs = number("ESKER_FUZZ_INPUTS").unwrap_or(DEFAULT_INPUTS);
    println!("ESKER_SEED={seed}");
    for (name, target) in targets::TARGETS {
        let rng = Rng::seeded(seed);
        let seeds = seeds::of(name);
        let run = |input: &[u8]| {
            let run = catch_unwind(AssertUnwindSafe(|| target(input)));
            assert!(run.is_ok(), "target {name} fails on {input:02x?}");
        };
        for seed in &seeds {
            run(seed);
        }
        for _ in 0..inputs {
            run(&damaged(&seeds, &rng));
            run(&noise(&rng));
        }
        println!("{name}: {} valid, {inputs} damaged, {inputs} random inputs", seeds.len());
    }
}

/// `make fuzz` starts from valid inputs as well: writes them to the folder that `ESKER_FUZZ_CORPUS` names.
#[test]
fn valid_inputs_are_valid_and_can_be_written() {
    let folder = std::env::var("ESKER_FUZZ_CORPUS").ok();
    for (name, _) in targets::TARGETS {
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty());
        let Some(folder) = &folder else { continue };
        let folder = std::path::Path::new(folder).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("valid-{number}")), seed).unwrap();
        }
    }
}
