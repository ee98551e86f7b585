#!/usr/bin/env bash
# Real Kafka clients against one broker.
#
#   tests/clients/run.sh [kcat|python|java|go|node …]     all five without arguments
#
# ESKER_LANE   file (default): Esker on a local directory · s3: Esker on an S3 server · kafka: a real Apache Kafka, the reference
# ESKER_BIN    the esker binary; built with cargo when it is not named
#
# Installs what is missing (cached under ~/.cache/esker), gives each client a fresh broker, stops what it started, and exits
# non-zero on any failure. It never passes by skipping: a client that cannot be installed is a failure.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lane=${ESKER_LANE:-file}
case $lane in file | s3 | kafka) ;; *) die "ESKER_LANE is '$lane'; it can be file, s3 or kafka" ;; esac
clients=("$@"); [ $# -gt 0 ] || clients=(kcat python java go node)
for client in "${clients[@]}"; do [ -f "$clients_dir/$client/run.sh" ] || die "no client '$client'; there are kcat python java go node"; done
if [ "$lane" != kafka ] && [ -z "${ESKER_BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --bin esker) || die "esker does not build"
    export ESKER_BIN="${CARGO_TARGET_DIR:-$root/target}/debug/esker"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/esker-clients.XXXXXX")
broker=""
# Ends what is still running, whatever ended us.
tidy() { [ -z "$broker" ] || "$clients_dir/broker.py" --dir "$broker" stop; }
trap tidy EXIT
trap 'exit 130' INT TERM

results=() failures=0
for client in "${clients[@]}"; do
    say ""; say "== $client"
    folder="$scratch/$client"; begin=$SECONDS; outcome=ok
    if ! "$clients_dir/$client/run.sh" install; then
        outcome="FAILED (install)"
    else
        broker=$folder
        if ! "$clients_dir/broker.py" --dir "$folder" start --lane "$lane"; then
            outcome="FAILED (broker start)"
        else
            export ESKER_BROKER_DIR=$folder ESKER_LANE=$lane
            ESKER_BOOTSTRAP=127.0.0.1:$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["port"])' "$folder/broker.json")
            export ESKER_BOOTSTRAP
            server=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["server"])' "$folder/broker.json")
            version=$("$clients_dir/$client/run.sh" version)
            say "lane $lane · server $server · client $version"
            timeout "${ESKER_SUITE_TIMEOUT_S:-600}" "$clients_dir/$client/run.sh" test || outcome="FAILED"
        fi
        "$clients_dir/broker.py" --dir "$folder" stop
        broker=""
    fi
    [ "$outcome" = ok ] || { failures=$((failures + 1)); say "the broker's log: $folder/broker.log"; }
    results+=("$(printf '%-8s %-22s %4s s  %s' "$client" "$outcome" "$((SECONDS - begin))" "${version:-}")")
    version=""
done
say ""; say "lane $lane · server ${server:-none}"
printf '%s\n' "${results[@]}"
if [ "$failures" = 0 ]; then rm -rf "$scratch"; else exit 1; fi
