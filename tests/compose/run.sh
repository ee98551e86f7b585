#!/usr/bin/env bash
# The compose file, for real, on a machine that reaches no image registry: an engine of our own, images of the same names
# made from Debian packages, MinIO and the broker's binary; then what the README promises of `docker compose`.
#
#   run.sh test            everything: engine, images, checks; ends what it started
#   run.sh images          make the images (the engine must be there)
#   run.sh engine          start the engine in the foreground
#
# Needs root (namespaces, overlay mounts), Go, and ESKER_BIN (default target/debug/esker). Packages and binaries are kept in
# ${XDG_CACHE_HOME:-~/.cache}/esker/compose. Images of Grafana are not made: Debian has none.
set -euo pipefail
cd "$(dirname "$0")/../.."

COMPOSE_VERSION=v2.39.4
cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker
place=$cache/compose
binary=${ESKER_BIN:-target/debug/esker}
export DOCKER_HOST=unix://$place/run/docker.sock DOCKER_CONFIG=$place/config DOCKER_BUILDKIT=0

say() { echo "compose: $*" >&2; }
die() { say "$*"; exit 1; }

install_tools() {
  mkdir -p "$place" "$DOCKER_CONFIG/cli-plugins"
  if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    say "installing Debian's engine and debootstrap"
    apt-get update -qq
    # No service is started: the engine is ours to start and to end.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
      docker.io iptables debootstrap >/dev/null
  fi
  local plugin=$DOCKER_CONFIG/cli-plugins/docker-compose
  [ -x "$plugin" ] && return
  say "building docker compose $COMPOSE_VERSION from its Go module (once; about 4 minutes on 2 cores)"
  local from work
  from=$(cd / && GOFLAGS=-mod=mod go mod download -json "github.com/docker/compose/v2@$COMPOSE_VERSION" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
  work=$(mktemp -d "$place/build.XXXXXX")
  cp -r "$from/." "$work"
  chmod -R u+w "$work"
  (cd "$work" && nice -n 10 go build -p 2 -trimpath \
    -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$COMPOSE_VERSION" -o "$plugin.new" ./cmd)
  mv "$plugin.new" "$plugin"
  rm -rf "$work"
}

# A root file system of Debian, unpacked once: name, then packages.
root_of() {
  local name=$1 packages
  shift
  packages=$(IFS=,; echo "$*")
  [ -e "$place/$name.tar" ] && return
  say "unpacking Debian for '$name'"
  rm -rf "$place/$name"
  debootstrap --variant=minbase ${packages:+--include="$packages"} bookworm "$place/$name" >"$place/$name.log" 2>&1 ||
    die "debootstrap failed: $(tail -3 "$place/$name.log")"
  rm -rf "$place/$name"/var/cache/apt/* "$place/$name"/var/lib/apt/lists/*
  tar -C "$place/$name" -cf "$place/$name.tar.new" .
  rm -rf "$place/$name"
  mv "$place/$name.tar.new" "$place/$name.tar"
}

# The image that the compose file calls `name`, from a Dockerfile on stdin and a context.
image() { # name context
  say "image $1"
  docker build --quiet --tag "$1" --file - "$2" 2>&1 >/dev/null | grep -vi -e deprecated -e buildkit -e environment-var -e '^$' || true
  docker image inspect "$1" >/dev/null
}

names() { docker compose --profile '*' config --images | sort -u; }
named() { names | grep "^$1" || die "docker-compose.yml names no image '$1'"; }

images() {
  root_of slim
  root_of infra bash ca-certificates curl haproxy prometheus etcd-server etcd-client python3 kcat
  docker import "$place/slim.tar" debian:bookworm-slim >/dev/null
  docker import "$place/infra.tar" esker-infra:local >/dev/null
  local context minio
  context=$(mktemp -d "$place/context.XXXXXX")
  tests/support/minio.sh install >&2
  minio=$(ls -t "$cache"/bin/minio-* | head -1)
  cp "$minio" "$context/minio"
  image "$(named quay.io/coreos/etcd)" "$context" <<<'FROM esker-infra:local'
  image "$(named quay.io/minio/minio)" "$context" <<<$'FROM esker-infra:local\nCOPY minio /usr/bin/minio'
  image "$(named haproxy)" "$context" <<<'FROM esker-infra:local
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
  # Debian's promtool is older than its `check ready`: the same question, asked with curl.
  printf '#!/bin/sh\n[ "$1 $2" = "check ready" ] || exec /usr/bin/promtool "$@"\nexec curl -sSf -o /dev/null "${3#--url=}/-/ready"\n' >"$context/promtool"
  chmod +x "$context/promtool"
  image "$(named prom/prometheus)" "$context" <<<'FROM esker-infra:local
COPY promtool /usr/local/bin/
ENTRYPOINT ["prometheus"]'
  localstack "$context"
  # What the build stage of the Dockerfile leaves, with a binary that is there already; then its second stage as it is.
  mkdir -p "$context/out/bin" "$context/out/data"
  cp "$binary" "$context/out/bin/esker"
  strip "$context/out/bin/esker"
  cp docker/esker-in-compose "$context/out/bin/"
  cp /etc/ssl/certs/ca-certificates.crt "$context/out/"
  image esker-build:local "$context" <<<$'FROM debian:bookworm-slim\nCOPY out /out'
  sed '/^FROM rust/,/^$/d; 1i FROM esker-build:local AS build' Dockerfile | image esker:dev "$context"
  rm -rf "$context"
}

# LocalStack itself, as PyPI has it (its image comes from a registry), with the dependencies of the days when it came out: what
# came later does not fit it. `awslocal` is a package of its own; here it is the two calls that are made.
LOCALSTACK_DAY=2025-10-25
localstack() { # context
  local image version kept
  image=$(named localstack/localstack)
  version=${image##*:}
  kept=$place/localstack-$version
  if [ ! -e "$kept/complete" ]; then
    say "installing LocalStack $version from PyPI"
    rm -rf "$kept"
    python3 -m venv "$kept/tools"
    "$kept/tools/bin/pip" install -q --disable-pip-version-check uv
    "$kept/tools/bin/uv" pip install -q --python-version 3.11 --exclude-newer "$LOCALSTACK_DAY" --target "$kept/site" \
      "localstack-core[runtime]==$version"
    touch "$kept/complete"
  fi
  cp -rl "$kept/site" "$1/localstack"
  cat >"$1/awslocal" <<'SCRIPT'
#!/usr/bin/python3
"""awslocal s3api OPERATION --bucket NAME"""
import sys
sys.path.insert(0, "/opt/localstack")
import boto3
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:4566", region_name="us-east-1",
                  aws_access_key_id="test", aws_secret_access_key="test")
getattr(s3, sys.argv[2].replace("-", "_"))(Bucket=sys.argv[4])
SCRIPT
  chmod +x "$1/awslocal"
  image "$image" "$1" <<<$'FROM esker-infra:local
COPY localstack /opt/localstack
COPY awslocal /usr/local/bin/
ENV PYTHONPATH=/opt/localstack DISABLE_EVENTS=1 SKIP_SSL_CERT_DOWNLOAD=1
CMD ["python3", "-m", "localstack.runtime.main"]'
}

engine() {
  mkdir -p "$place/run" "$place/lib"
  exec dockerd --host "$DOCKER_HOST" --data-root "$place/lib" --exec-root "$place/run/exec" --pidfile "$place/run/pid"
}

start_engine() {
  docker info >/dev/null 2>&1 && return
  (engine) >"$place/engine.log" 2>&1 &
  engine_pid=$!
  for _ in $(seq 100); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 0.2
  done
  die "the engine did not start: $(tail -3 "$place/engine.log")"
}

finish() {
  local status=$?
  [ $status = 0 ] || docker compose --profile '*' logs --tail 30 >&2 || true
  docker compose --profile '*' down --volumes --timeout 20 >/dev/null 2>&1 || true
  if [ -n "${engine_pid:-}" ]; then
    kill "$engine_pid" && wait "$engine_pid" 2>/dev/null || true
  fi
}

case ${1:-} in
  test)
    install_tools
    trap finish EXIT
    start_engine
    images
    # shellcheck source=tests/compose/checks.sh
    . tests/compose/checks.sh
    ;;
  images) install_tools; images ;;
  engine) install_tools; engine ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
