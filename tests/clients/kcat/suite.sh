#!/usr/bin/env bash
# kcat (librdkafka of Debian) against the broker at $ESKER_BOOTSTRAP. Each test is a function; a test fails when it returns non-zero.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
: "${ESKER_BOOTSTRAP:?} ${ESKER_BROKER_DIR:?}"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
k() { timeout 60 kcat -b "$ESKER_BOOTSTRAP" "$@"; }
admin() { "$cache/venv/bin/python" "$clients_dir/python/topic.py" "$@"; }
now_ms() { date +%s%3N; }
topic() { printf 'kcat-%s-%s' "$1" "$RANDOM$RANDOM"; }
# same WHAT FILE FILE: the two files hold the same bytes.
same() { cmp -s "$2" "$3" || { echo "$1 differs:"; diff <(head -c 2000 "$2") <(head -c 2000 "$3") | head -10; return 1; }; }
equal() { [ "$2" = "$3" ] || { echo "$1: expected '$2', found '$3'"; return 1; }; }
all() { k -C -q -t "$1" -o beginning -e "${@:2}"; }

test_codecs_and_acks() {
    local t
    for n in $(seq 1 500); do echo "line $n with something to compress: $(printf 'x%.0s' {1..40})"; done >"$work/in"
    for acks in 0 1 all; do
        for codec in none gzip snappy lz4 zstd; do
            t=$(topic "$codec-$acks")
            admin create "$t" || return 1
            k -P -t "$t" -z "$codec" -X acks="$acks" -X linger.ms=20 -l "$work/in" || { echo "produce $codec acks=$acks"; return 1; }
            if [ "$acks" != all ]; then # nobody told us when it may be read: that is when it is committed
                for _ in $(seq 100); do [ "$(k -Q -t "$t:0:-1" | awk '{print $NF}')" = 500 ] && break; sleep 0.05; done
            fi
            all "$t" >"$work/out" || { echo "consume $codec acks=$acks"; return 1; }
            same "$codec acks=$acks" "$work/in" "$work/out" || return 1
        done
    done
}

test_auto_create_and_metadata() {
    local t; t=$(topic auto)
    echo first | k -P -t "$t" || return 1
    equal value first "$(all "$t")" || return 1
    k -L -t "$t" | grep -q "topic \"$t\" with 1 partitions" || { echo "not listed"; k -L -t "$t"; return 1; }
    k -L -J | grep -q "\"topic\":\"$t\"" || { echo "not in the list of all topics"; return 1; }
}

test_keys_headers_nulls() {
    local t; t=$(topic keys)
    admin create "$t"
    printf 'k1:v1\nk2:\n:v3\n' | k -P -t "$t" -K: -H one=1 -H two=2 -H empty= || return 1
    printf 'k4:\n' | k -P -t "$t" -K: -Z || return 1
    # With -Z kcat prints NULL for empty ones too; the length tells them apart.
    all "$t" -Z -f '%o|%k|%s|%S|%h\n' >"$work/out" || return 1
    printf '%s\n' '0|k1|v1|2|one=1,two=2,empty=' '1|k2|NULL|0|one=1,two=2,empty=' '2|NULL|v3|2|one=1,two=2,empty=' '3|k4|NULL|-1|' >"$work/want"
    same "keys and headers" "$work/want" "$work/out"
}

test_record_of_900_kb() {
    local t; t=$(topic big)
    admin create "$t"
    head -c 900000 /dev/urandom >"$work/big"
    k -P -t "$t" "$work/big" || return 1
    all "$t" -D '' >"$work/out" || return 1
    same "900 KB" "$work/big" "$work/out"
}

test_too_large_is_refused() {
    local t; t=$(topic large)
    admin create "$t"
    head -c 1500000 /dev/urandom >"$work/large"
    if k -P -t "$t" -X message.max.bytes=5000000 "$work/large" 2>"$work/err"; then echo "it was taken"; return 1; fi
    grep -qi 'size too large' "$work/err" || { cat "$work/err"; return 1; }
}

test_where_to_start() {
    local t mid; t=$(topic start)
    admin create "$t"
    seq 0 49 | k -P -t "$t" || return 1
    sleep 0.05; mid=$(now_ms); sleep 0.05
    seq 50 99 | k -P -t "$t" || return 1
    equal beginning "0 100" "$(all "$t" | head -1) $(all "$t" | wc -l)" || return 1
    equal offset "97 98 99" "$(k -C -q -t "$t" -p 0 -o 97 -e | xargs)" || return 1
    equal "from the end" "95 96 97 98 99" "$(k -C -q -t "$t" -p 0 -o -5 -e | xargs)" || return 1
    equal timestamp "50 99" "$(k -C -q -t "$t" -p 0 -o "s@$mid" -e | sed -n '1p;$p' | xargs)" || return 1
    equal "up to a timestamp" "0 49" "$(k -C -q -t "$t" -p 0 -o s@0 -o "e@$mid" -e | sed -n '1p;$p' | xargs)" || return 1
    equal count "10 11 12" "$(k -C -q -t "$t" -p 0 -o 10 -c 3 | xargs)" || return 1
    equal query "$t [0] offset 50" "$(k -Q -t "$t:0:$mid")" || return 1
    equal "latest" "$t [0] offset 100" "$(k -Q -t "$t:0:-1")" || return 1
    equal "earliest" "$t [0] offset 0" "$(k -Q -t "$t:0:-2")"
}

test_log_append_time() {
    local t begin got; t=$(topic lat)
    admin create "$t" --config message.timestamp.type=LogAppendTime
    begin=$(now_ms)
    echo x | k -P -t "$t" || return 1
    got=$(all "$t" -f '%T')
    [ "$got" -ge $((begin - 5)) ] && [ "$got" -le $(($(now_ms) + 5)) ] || { echo "timestamp $got"; return 1; }
}

test_idempotent_producer() {
    local t; t=$(topic idem)
    admin create "$t" --partitions 3
    seq 1 20000 >"$work/in"
    k -P -t "$t" -X enable.idempotence=true -X batch.num.messages=100 -X linger.ms=1 -l "$work/in" || return 1
    all "$t" | sort -n >"$work/out"
    same "idempotent" "$work/in" "$work/out"
}

test_group_commits_and_resumes_after_a_restart() {
    local t g; t=$(topic group); g=$t-g
    admin create "$t" --partitions 2
    seq 1 1000 | k -P -t "$t" || return 1
    k -q -X auto.offset.reset=earliest -e -G "$g" "$t" 2>/dev/null | sort -n >"$work/first"
    equal "first half" 1000 "$(wc -l <"$work/first")" || return 1
    "$clients_dir/broker.py" --dir "$ESKER_BROKER_DIR" restart --signal KILL || return 1
    seq 1001 1500 | k -P -t "$t" || return 1
    k -q -X auto.offset.reset=earliest -e -G "$g" "$t" 2>/dev/null | sort -n >"$work/second"
    same "what came after the restart" <(seq 1001 1500) "$work/second"
}

test_unknown_topic_is_told() {
    local t; t=$(topic missing)
    if all "$t" 2>"$work/err"; then echo "no error"; return 1; fi
    grep -qi 'unknown topic' "$work/err" || { cat "$work/err"; return 1; }
}

test_offset_out_of_range() {
    local t; t=$(topic range)
    admin create "$t"
    seq 1 10 | k -P -t "$t"
    equal "reset to earliest" 1 "$(k -C -q -t "$t" -p 0 -o 500 -X topic.auto.offset.reset=earliest -c 1)" || return 1
    if k -C -q -t "$t" -p 0 -o 500 -X topic.auto.offset.reset=error -c 1 2>"$work/err"; then echo "no error"; return 1; fi
    grep -qi 'out of range' "$work/err" || { cat "$work/err"; return 1; }
}

test_a_tailing_consumer_gets_a_record_at_once() {
    local t begin took; t=$(topic tail)
    admin create "$t"
    k -C -q -u -t "$t" -o end -X fetch.wait.max.ms=5000 -c 1 >"$work/out" & local reader=$!
    sleep 2
    begin=$(now_ms)
    echo hello | k -P -t "$t" -X linger.ms=0 || return 1
    wait "$reader"
    took=$(($(now_ms) - begin))
    equal value hello "$(cat "$work/out")" || return 1
    [ "$took" -lt 2500 ] || { echo "took $took ms with a fetch wait of 5000 ms"; return 1; }
}

failed=()
tests=("$@"); [ $# -gt 0 ] || mapfile -t tests < <(declare -F | awk '{print $3}' | grep '^test_')
for name in "${tests[@]}"; do
    begin=$(now_ms)
    if "$name" >"$work/log" 2>&1; then result=ok; else result=FAILED; failed+=("$name"); fi
    printf '%-60s %s (%s ms)\n' "$name" "$result" "$(($(now_ms) - begin))"
    [ "$result" = ok ] || sed 's/^/    /' "$work/log"
done
printf '%s tests, %s failed\n' "${#tests[@]}" "${#failed[@]}"
[ "${#failed[@]}" = 0 ]
