# shellcheck shell=bash
# What `docker compose` must do, step by step; sourced by run.sh, which has made engine and images.

compose() { docker compose --progress quiet "$@"; }
# kcat in the brokers' network.
inside() { docker run --rm --interactive --network esker_default esker-infra:local timeout 30 kcat "$@"; }
outside() { timeout 30 kcat "$@"; }
brokers() { "$1" -b "$2" -L -J | python3 -c 'import json, sys; print(*sorted(b["name"] for b in json.load(sys.stdin)["brokers"]))'; }
check() { say "ok: $1"; }

# A command repeated until it succeeds, for at most so many seconds.
within() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $until ] || { say "not in time: $*"; return 1; }
    sleep 0.5
  done
}
lists() { [ "$(brokers "$1" "$2" 2>/dev/null)" = "$3" ]; }

echo '--- up --wait'
compose up --wait --no-build --quiet-pull
check 'three brokers, etcd, MinIO and the gateway are healthy'
[ "$(docker inspect --format '{{.Config.User}}' esker-broker-1)" = 10001:10001 ]
check 'brokers do not run as root'

echo '--- clients on the host and in the network'
within 20 lists outside localhost:9092 'localhost:19092 localhost:19093 localhost:19094'
within 20 lists inside broker:9092 'esker-broker-1:9092 esker-broker-2:9092 esker-broker-3:9092'
check 'each is told addresses that it can reach'
# Six partitions: every broker leads some, so every address is used.
seq 1 3000 | outside -b localhost:9092 -X topic.partitioner=random -t compose -P
[ "$(inside -b broker:9092 -t compose -C -e -q | sort -n | cksum)" = "$(seq 1 3000 | cksum)" ]
seq 3001 6000 | inside -b broker:9092 -t compose -P
[ "$(outside -b localhost:9092 -t compose -C -e -q | sort -n | cksum)" = "$(seq 1 6000 | cksum)" ]
check 'records from each side are read on the other'

echo '--- --scale broker=5 under load, then 2'
load=$(mktemp)
(for n in $(seq 1 600); do for m in $(seq 1 20); do echo "$n-$m"; done; sleep 0.1; done) |
  kcat -b localhost:9092 -X enable.idempotence=true -X message.timeout.ms=60000 -t load -P 2>"$load" &
producer=$!
compose up --wait --no-build --no-recreate --scale broker=5
within 30 lists inside broker:9092 \
  'esker-broker-1:9092 esker-broker-2:9092 esker-broker-3:9092 esker-broker-4:9092 esker-broker-5:9092'
check 'five brokers'
compose up --wait --no-build --no-recreate --scale broker=2
within 60 lists outside localhost:9092 'localhost:19092 localhost:19093'
check 'two brokers'
wait $producer || die "the producer failed: $(cat "$load")"
! grep -qi 'delivery failed' "$load" || die "$(cat "$load")"
rm -f "$load"
(for n in $(seq 1 600); do for m in $(seq 1 20); do echo "$n-$m"; done; done) | sort >/tmp/esker-compose-sent.$$
outside -b localhost:9092 -t load -C -e -q | sort >/tmp/esker-compose-read.$$
cmp /tmp/esker-compose-sent.$$ /tmp/esker-compose-read.$$
rm -f /tmp/esker-compose-sent.$$ /tmp/esker-compose-read.$$
check 'no record was lost, and none came twice'

echo '--- Prometheus and the dashboard'
compose up --wait --no-build --no-recreate prometheus
within 30 python3 tests/compose/dashboard.py http://localhost:9090 2
python3 tests/compose/dashboard.py http://localhost:9090 2
check 'every broker is scraped, and every query of the dashboard names metrics that exist'

echo '--- LocalStack for MinIO'
compose --profile '*' down --volumes --timeout 40
export ESKER_S3_ENDPOINT=http://localstack:4566
compose --profile localstack up --wait --no-build
within 30 lists outside localhost:9092 'localhost:19092 localhost:19093 localhost:19094'
compose exec -T localstack awslocal s3api head-bucket --bucket esker
compose exec -T localstack curl --silent --fail http://127.0.0.1:4566/_localstack/info | grep -o '"version": "[^"]*"' >&2
seq 1 3000 | outside -b localhost:9092 -X topic.partitioner=random -t compose -P
[ "$(inside -b broker:9092 -t compose -C -e -q | sort -n | cksum)" = "$(seq 1 3000 | cksum)" ]
check 'its init script has made the bucket, and records are written and read'
