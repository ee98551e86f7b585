#!/usr/bin/env bash
# A real etcd on loopback for tests: Debian's etcd-server (3.4), or the newest 3.6 built from its Go module. Unpacked or built
# once, kept in ${XDG_CACHE_HOME:-~/.cache}/esker.
#
#   etcd.sh install                     find, unpack or build the server; prints which one it is
#   etcd.sh start DIR [HOST PORT]       start it with its data in DIR, on loopback and a free port; writes DIR/pid and DIR/env
#                                       (to be sourced)
#   etcd.sh stop DIR                    stop the server that `start DIR` started
#   etcd.sh run COMMAND [ARG…]          start it in a scratch directory, run the command with the environment, stop it
#
# The environment names the server for the tests: ESKER_TEST_ETCD=required, ESKER_TEST_ETCD_ENDPOINT (host:port),
# ESKER_TEST_ETCD_SERVER (name and version) and ESKER_TEST_ETCD_BIN (for tests that start members of their own).
# ESKER_TEST_ETCD_KIND=debian|go asks for one of the two; without it: debian where apt is there, else go.
set -euo pipefail

GO_VERSION=v3.6.16

cache=${XDG_CACHE_HOME:-$HOME/.cache}/esker

say() { echo "etcd: $*" >&2; }
die() { say "$*"; exit 1; }

kind() {
  if [ -n "${ESKER_TEST_ETCD_KIND:-}" ]; then
    echo "$ESKER_TEST_ETCD_KIND"
  elif [ -x "$cache/etcd-debian/usr/bin/etcd" ] || command -v apt-get >/dev/null; then
    echo debian
  else
    echo go
  fi
}

binary() {
  case $(kind) in
    debian) echo "$cache/etcd-debian/usr/bin/etcd" ;;
    go) echo "$cache/bin/etcd-$GO_VERSION" ;;
    *) die "unknown ESKER_TEST_ETCD_KIND '$(kind)': debian or go" ;;
  esac
}

# Unpacked, not installed: the package would start a service on the default ports.
install_debian() {
  say "unpacking Debian's etcd-server into $cache/etcd-debian"
  local into
  mkdir -p "$cache"
  into=$(mktemp -d "$cache/etcd.XXXXXX")
  # The package lists of a fresh machine are empty or old.
  (cd "$into" && { apt-get download -qq etcd-server >&2 || { as_root apt-get update -qq >&2 && apt-get download -qq etcd-server >&2; }; })
  dpkg-deb -x "$into"/etcd-server_*.deb "$into/root"
  rm -rf "$cache/etcd-debian"
  mv "$into/root" "$cache/etcd-debian"
  rm -rf "$into"
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Its go.mod points at the directories beside it, which `go install` refuses; a module of our own asks for it instead.
install_go() {
  command -v go >/dev/null || die "etcd $GO_VERSION is built from its Go module, and there is no 'go' here"
  say "building etcd $GO_VERSION (once; about 2 minutes on 2 cores)"
  local into
  mkdir -p "$cache/bin"
  into=$(mktemp -d "$cache/bin/build.XXXXXX")
  (
    cd "$into"
    printf 'module build\n' >go.mod
    go get "go.etcd.io/etcd/server/v3@$GO_VERSION" 2>/dev/null
    CGO_ENABLED=0 nice -n 10 go build -p 2 -trimpath -ldflags='-s -w' -o etcd go.etcd.io/etcd/server/v3
  ) >&2
  mv "$into/etcd" "$cache/bin/etcd-$GO_VERSION"
  rm -rf "$into"
}

install() {
  local binary
  binary=$(binary)
  [ -x "$binary" ] || "install_$(kind)"
  "$binary" --version | sed -n 's/^etcd Version: /etcd /p'
}

free_ports() {
  python3 -c '
import socket
ports = [socket.socket() for _ in range(2)]
for port in ports: port.bind(("127.0.0.1", 0))
print(*(port.getsockname()[1] for port in ports))'
}

start() { # directory host port
  local directory server host=${2:-127.0.0.1} client peer pid waited=0
  server=$(install)
  mkdir -p "$1"
  directory=$(cd "$1" && pwd)
  read -r client peer < <(free_ports)
  client=${3:-$client}
  # A session of its own, so that a Ctrl-C of the tests leaves the stopping to us.
  setsid "$(binary)" --name test --data-dir "$directory/data" \
    --listen-client-urls "http://$host:$client" --advertise-client-urls "http://$host:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "test=http://127.0.0.1:$peer" --unsafe-no-fsync >"$directory/log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$directory/pid"
  cat >"$directory/env" <<EOT
export ESKER_TEST_ETCD=required
export ESKER_TEST_ETCD_ENDPOINT=$host:$client
export ESKER_TEST_ETCD_SERVER='$server'
export ESKER_TEST_ETCD_BIN='$(binary)'
EOT
  until curl --silent --max-time 2 "http://$host:$client/health" 2>/dev/null | grep -q '"true"'; do
    if ! kill -0 "$pid" 2>/dev/null || [ $waited -ge 300 ]; then
      tail -20 "$directory/log" >&2
      stop "$directory"
      die "$server did not become ready on $host:$client"
    fi
    sleep 0.1
    waited=$((waited + 1))
  done
  say "$server on $host:$client, pid $pid, data in $directory"
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
  start) [ $# -eq 2 ] || [ $# -eq 4 ] || die "usage: etcd.sh start DIR [HOST PORT]"; start "${@:2}" ;;
  stop) [ $# -eq 2 ] || die "usage: etcd.sh stop DIR"; stop "$2" ;;
  run) shift; [ $# -ge 1 ] || die "usage: etcd.sh run COMMAND [ARG…]"; run "$@" ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
