#!/usr/bin/env bash
# install | version | test [TEST…] | exec ARGUMENTS… (Python with the packages and the stubs); called by ../run.sh. Not for the reference: Apache Kafka has no gRPC.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../lib.sh"
GRPCURL_VERSION=v1.9.3
grpcurl="$cache/grpcurl-$GRPCURL_VERSION"
venv="$cache/grpc-venv"
stubs="$cache/grpc-stubs-$(content_key "$root"/proto/esker/v1/*.proto "$here/requirements.txt")"

install_grpcurl() {
    [ ! -x "$grpcurl" ] || return 0
    need go "install Go: grpcurl is built from its module"
    local into; into=$(mktemp -d "$cache/grpcurl-fresh.XXXXXX")
    GOBIN="$into" CGO_ENABLED=0 go install -p 2 -trimpath -ldflags='-s -w' "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL_VERSION" >&2 || die "grpcurl does not build"
    mv "$into/grpcurl" "$grpcurl"
    rmdir "$into"
}

install_grpc() {
    install_grpcurl
    need python3 "install python3"
    if ! cmp -s "$here/requirements.txt" "$venv/installed"; then
        python3 -m venv "$venv" 2>/dev/null || { apt_install python3-venv; python3 -m venv "$venv"; }
        "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2 || die "pip could not install the gRPC packages"
        cp "$here/requirements.txt" "$venv/installed"
    fi
    if [ ! -d "$stubs" ]; then
        local fresh; fresh=$(mktemp -d "$cache/grpc-fresh.XXXXXX")
        "$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" --python_out="$fresh" --grpc_python_out="$fresh" "$root"/proto/esker/v1/*.proto
        mv -T "$fresh" "$stubs" 2>/dev/null || rm -rf "$fresh"
        sweep 'grpc-stubs-*'
    fi
    touch "$stubs"
}

case $1 in
    install) install_grpc ;;
    version) echo "$("$venv/bin/python" -c 'import grpc; print("grpcio", grpc.__version__)'), grpcurl $GRPCURL_VERSION" ;;
    exec) PYTHONPATH="$stubs" exec "$venv/bin/python" "${@:2}" ;;
    test)
        [ "${ESKER_LANE:-file}" != kafka ] || die "Apache Kafka has no gRPC: this suite is for Esker"
        cd "$here" && GRPCURL="$grpcurl" PYTHONPATH="$stubs" exec "$venv/bin/python" -B -m unittest -v "${@:2}" ;;
esac
