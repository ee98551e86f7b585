#!/usr/bin/env bash
# Real Kafka clients against one broker.
#
#   tests/clients/run.sh [kcat|python|java|go|node|grpc …]   all six without arguments
#
# ESKER_LANE   file (default): Esker on a local directory · s3: Esker on an S3 server · kafka: a real Apache Kafka, the reference
# ESKER_BIN    the esker binary; built with cargo when it is not named
# ESKER_SUITES_AT_ONCE   how many suites run at a time, each with a broker of its own; default 2, since much of a suite is waiting
#
# Installs what is missing (cached under ~/.cache/esker), gives each client a fresh broker, stops what it started, and exits
# non-zero on any failure. It never passes by skipping: a client that cannot be installed is a failure.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lane=${ESKER_LANE:-file}
case $lane in file | s3 | kafka) ;; *) die "ESKER_LANE is '$lane'; it can be file, s3 or kafka" ;; esac
clients=("$@"); [ $# -gt 0 ] || { clients=(java node python go kcat); [ "$lane" = kafka ] || clients+=(grpc); } # the longest first
for client in "${clients[@]}"; do [ -f "$clients_dir/$client/run.sh" ] || die "no client '$client'; there are kcat python java go node grpc"; done
if [ "$lane" != kafka ] && [ -z "${ESKER_BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --bin esker) || die "esker does not build"
    export ESKER_BIN="${CARGO_TARGET_DIR:-$root/target}/debug/esker"
fi

at_once=${ESKER_SUITES_AT_ONCE:-2}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/esker-clients.XXXXXX")
# Ends what is still running, whatever ended us. A suite whose tests are ended stops its broker itself.
tidy() {
    [ -d "$scratch" ] || return
    touch "$scratch/ending"
    for pid in "$scratch"/*/tests.pid; do [ ! -e "$pid" ] || kill "$(cat "$pid")" 2>/dev/null; done
    wait
}
trap tidy EXIT
trap 'exit 130' INT TERM

told() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/broker.json" "$1"; }

# suite CLIENT: a fresh broker and the client's tests. Fills the variable `outcome`.
suite() {
    # Checkouts and suites share the cache: one installs at a time.
    if ! flock -o "$cache/install.lock" "$clients_dir/$client/run.sh" install; then outcome="FAILED (install)"; return; fi
    [ ! -e "$scratch/ending" ] || { outcome=FAILED; return; }
    if ! "$clients_dir/broker.py" --dir "$folder" start --lane "$lane"; then outcome="FAILED (broker start)"; return; fi
    export ESKER_BROKER_DIR=$folder ESKER_LANE=$lane ESKER_BOOTSTRAP
    ESKER_BOOTSTRAP=127.0.0.1:$(told port)
    version=$("$clients_dir/$client/run.sh" version)
    say "lane $lane · server $(told server) · client $version"
    timeout "${ESKER_SUITE_TIMEOUT_S:-600}" "$clients_dir/$client/run.sh" test &
    echo $! >"$folder/tests.pid"
    wait $! || outcome=FAILED
    rm "$folder/tests.pid"
}

# Two suites wait for each other's brokers no more than for their own; what one says is shown when it is through.
run_client() {
    local client=$1 folder="$scratch/$1" begin=$SECONDS outcome=ok version=""
    mkdir "$folder"
    {
        say ""; say "== $client"
        suite
        [ ! -e "$folder/broker.json" ] || "$clients_dir/broker.py" --dir "$folder" stop
        [ "$outcome" = ok ] || say "the broker's log: $folder/broker.log"
    } >"$folder/output" 2>&1
    flock "$scratch" cat "$folder/output" >&2
    printf '%-8s %-22s %4s s  %s\n' "$client" "$outcome" "$((SECONDS - begin))" "$version" >"$folder/result"
    [ "$outcome" = ok ]
}

begin=$SECONDS
for client in "${clients[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
    run_client "$client" &
done
wait
say ""; say "lane $lane · $((SECONDS - begin)) s"
failures=0
for client in "${clients[@]}"; do
    cat "$scratch/$client/result"
    case $(cat "$scratch/$client/result") in *FAILED*) failures=$((failures + 1)) ;; esac
done
if [ "$failures" = 0 ]; then rm -rf "$scratch"; else exit 1; fi
