#!/usr/bin/env bash
# Runs every lane of the tests, or those that are named: tests/run.sh [lane…]
#
# Works on a bare Debian machine as root with Rust, Go, Python, Node, a JDK and Maven: what else is needed is installed.
# A lane that cannot run fails; none is skipped. Every lane runs even if an earlier one failed; the summary comes last.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_PROGRESS_WHEN=never CARGO_INCREMENTAL=0 RUST_BACKTRACE=1

# Rust test targets, by directory convention; each is a lane of its own.
rust_lanes() {
  for path in tests/*.rs tests/*/main.rs; do
    [ -e "$path" ] || continue
    path=${path#tests/}
    path=${path%.rs}
    echo "${path%/main}"
  done | sort
}

lane_setup() { tests/support/setup.sh; }
lane_format() { cargo fmt --check; }
lane_clippy() { cargo clippy --locked --all-targets --quiet -- -D warnings; }
lane_unit() { cargo test --locked --lib --bins --quiet; }
lane_docs() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --lib --document-private-items --quiet; }
# Also on a real S3 server and a real etcd, which the lane names.
lane_contract() {
  tests/support/minio.sh run tests/support/etcd.sh run cargo test --locked --test contract -- --nocapture
}
# Debian's etcd is old (3.4), which the contract runs on; here it is the newest 3.6, with MinIO for the start of a broker.
lane_etcd() {
  ESKER_TEST_ETCD_KIND=go tests/support/minio.sh run tests/support/etcd.sh run \
    cargo test --locked --test etcd -- --nocapture
}
# With the named crash points built in.
lane_crash() { cargo test --locked --features failpoints --test crash -- --nocapture; }
# The clients talk to the debug binary of the Rust lanes, made again without crash points. Built by way of a test: a plain
# `cargo build` resolves other features, and compiles most dependencies a second time.
lane_build() { cargo test --locked --no-run --test serve; }
lane_clients() { ESKER_BIN="$PWD/target/debug/esker" tests/clients/run.sh; }
lane_clients_s3() { ESKER_LANE=s3 ESKER_BIN="$PWD/target/debug/esker" tests/clients/run.sh; }
lane_scale() { tests/clients/python/run.sh install && ESKER_BIN="$PWD/target/debug/esker" tests/scenarios/scale.py; }
# The checker of `make chaos`.
lane_chaos() { (cd tests/chaos && python3 -B -m unittest -q test_checker); }
lane_debian() { ESKER_BIN="$PWD/target/debug/esker" tests/scenarios/debian.py; }

lanes=(setup format clippy unit docs)
while read -r lane; do lanes+=("$lane"); done < <(rust_lanes)
lanes+=(chaos build clients clients_s3 debian scale)
[ $# -gt 0 ] && lanes=("$@")

failed=()
summary=()
for lane in "${lanes[@]}"; do
  echo "━━━ lane: $lane"
  started=$SECONDS
  if declare -F "lane_$lane" >/dev/null; then
    "lane_$lane" </dev/null
  else
    cargo test --locked --test "$lane" -- --nocapture </dev/null
  fi
  status=$?
  took=$((SECONDS - started))
  if [ $status = 0 ]; then
    summary+=("pass  $lane (${took}s)")
  else
    summary+=("FAIL  $lane (${took}s, exit $status)")
    failed+=("$lane")
  fi
done

echo "━━━ summary"
printf '%s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; repeat with: make test LANES='${failed[*]}'"
  exit 1
fi
echo "all ${#lanes[@]} lanes passed"
