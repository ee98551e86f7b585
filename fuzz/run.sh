#!/usr/bin/env bash
# Fuzzes every target (or those named) for FUZZ_SECONDS each: fuzz/run.sh [target…]
#
# Needs no nightly compiler: coverage is asked of the stable one with RUSTC_BOOTSTRAP=1, without address sanitizer (the
# code has no `unsafe` of its own). Installs cargo-fuzz if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml)
export RUSTC_BOOTSTRAP=1
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

# The search starts from valid inputs.
ESKER_FUZZ_CORPUS="$PWD/fuzz/corpus" cargo test --quiet --test fuzz valid_inputs
for target in "${targets[@]}"; do
  echo "━━━ $target, $seconds s"
  cargo fuzz run -s none "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=8192 -print_final_stats=1
done
