#!/usr/bin/env bash
# A real S3 server on loopback for tests: MinIO built from its Go module, or, where Go is not there, MiniStack or moto from
# PyPI. Built once, kept in ${XDG_CACHE_HOME:-~/.cache}/esker.
#
#   minio.sh install                    build or find the server; prints which one it is
#   minio.sh start DIR [PORT]           start it with its data in DIR; writes DIR/pid and DIR/env (to be sourced)
#   minio.sh stop DIR                   stop the server that `start DIR` started
#   minio.sh run COMMAND [ARG…]         start it in a scratch directory, run the command with the environment, stop it
#
# The environment names the server for the tests: ESKER_TEST_S3=required, ESKER_TEST_S3_ENDPOINT, ESKER_TEST_S3_SERVER and
# the AWS_ variables of the standard chain. ESKER_TEST_S3_KIND=minio|ministack|moto asks for one of the three.
set -euo pipefail

# The newest version on the Go proxy when this was written; its tags are no Go versions, so a pseudo-version it is.
MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
MINISTACK_VERSION=1.5.33
MOTO_VERSION=5.2.5

cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker
user=esker-test
secret=esker-test-secret

say() { echo "s3 server: $*" >&2; }
die() { say "$*"; exit 1; }

kind() {
  if [ -n "${ESKER_TEST_S3_KIND:-}" ]; then
    echo "$ESKER_TEST_S3_KIND"
  elif [ -x "$cache/bin/minio-$MINIO_VERSION" ] || command -v go >/dev/null; then
    echo minio
  else
    echo moto
  fi
}

install_minio() {
  [ -x "$cache/bin/minio-$MINIO_VERSION" ] && return
  command -v go >/dev/null || die "MinIO is built from its Go module, and there is no 'go' here"
  say "building MinIO $MINIO_VERSION (once; about 7 minutes on 2 cores)"
  mkdir -p "$cache/bin"
  local into
  into=$(mktemp -d "$cache/bin/build.XXXXXX")
  GOBIN="$into" CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}" nice -n 10 \
    go install -p 2 -trimpath -ldflags='-s -w' "github.com/minio/minio@$MINIO_VERSION" >&2
  mv "$into/minio" "$cache/bin/minio-$MINIO_VERSION"
  rmdir "$into"
}

install_python() { # name requirement
  local venv="$cache/venv-$1"
  [ -e "$venv/installed" ] && return
  say "installing $2 from PyPI into $venv"
  mkdir -p "$cache"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$2" >&2
  touch "$venv/installed"
}

install() {
  # Several tests may ask at once; one builds, the others wait.
  mkdir -p "$cache"
  exec 8>"$cache/install.lock"
  flock 8
  case $(kind) in
    minio) install_minio; echo "MinIO $MINIO_VERSION" ;;
    ministack) install_python ministack "ministack==$MINISTACK_VERSION"; echo "MiniStack $MINISTACK_VERSION" ;;
    moto) install_python moto "moto[s3,server]==$MOTO_VERSION"; echo "moto $MOTO_VERSION" ;;
    *) die "unknown ESKER_TEST_S3_KIND '$(kind)': minio, ministack or moto" ;;
  esac
  exec 8>&-
}

# Below the range that the kernel hands to outgoing connections, so that none takes it before the server does.
free_port() {
  python3 - <<'END'
import random, socket

for port in random.sample(range(20000, 32000), 200):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
END
}

start() { # directory port
  local directory port server endpoint pid ready
  server=$(install)
  mkdir -p "$1"
  directory=$(cd "$1" && pwd)
  port=${2:-$(free_port)}
  endpoint=http://127.0.0.1:$port
  export MINIO_ROOT_USER=$user MINIO_ROOT_PASSWORD=$secret MINIO_BROWSER=off MINIO_UPDATE=off
  export GATEWAY_PORT=$port MINISTACK_HOST=127.0.0.1
  case $(kind) in
    minio)
      mkdir -p "$directory/data"
      # A session of its own, so that a Ctrl-C of the tests leaves the stopping to us.
      setsid "$cache/bin/minio-$MINIO_VERSION" server --quiet --address "127.0.0.1:$port" "$directory/data" \
        >"$directory/log" 2>&1 </dev/null &
      pid=$!
      ready=$endpoint/minio/health/ready
      ;;
    ministack)
      setsid "$cache/venv-ministack/bin/ministack" >"$directory/log" 2>&1 </dev/null &
      pid=$!
      ready=$endpoint/
      ;;
    moto)
      setsid "$cache/venv-moto/bin/moto_server" -H 127.0.0.1 -p "$port" >"$directory/log" 2>&1 </dev/null &
      pid=$!
      ready=$endpoint/
      ;;
  esac
  echo "$pid" >"$directory/pid"
  cat >"$directory/env" <<EOF
export ESKER_TEST_S3=required
export ESKER_TEST_S3_ENDPOINT=$endpoint
export ESKER_TEST_S3_SERVER='$server'
export AWS_ENDPOINT_URL=$endpoint
export AWS_ACCESS_KEY_ID=$user
export AWS_SECRET_ACCESS_KEY=$secret
export AWS_REGION=us-east-1
EOF
  local waited=0
  until curl --silent --output /dev/null --max-time 2 --fail "$ready" 2>/dev/null; do
    if ! kill -0 "$pid" 2>/dev/null || [ $waited -ge 300 ]; then
      tail -20 "$directory/log" >&2
      stop "$directory"
      die "$server did not become ready on $endpoint"
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
  say "$server on $endpoint, pid $pid, data in $directory"
}

stop() { # directory
  local pid
  [ -e "$1/pid" ] || return 0
  pid=$(cat "$1/pid")
  rm -f "$1/pid"
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
}

run() {
  scratch=$(mktemp -d)
  trap 'stop "$scratch"; rm -rf "$scratch"' EXIT
  start "$scratch"
  # shellcheck disable=SC1091
  . "$scratch/env"
  "$@"
}

case ${1:-} in
  install) install ;;
  start) [ $# -ge 2 ] || die "usage: minio.sh start DIR [PORT]"; start "$2" "${3:-}" ;;
  stop) [ $# -eq 2 ] || die "usage: minio.sh stop DIR"; stop "$2" ;;
  run) shift; [ $# -ge 1 ] || die "usage: minio.sh run COMMAND [ARG…]"; run "$@" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
