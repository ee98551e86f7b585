#!/usr/bin/env bash
# install | version | test [-run REGEXP]; called by ../run.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cd "$clients_dir/go"
program="$cache/franz-$(content_key ./*.go go.mod go.sum).test"
case $1 in
    install)
        need go "install Go (the version in $clients_dir/go/go.mod or newer)"
        if [ ! -x "$program" ]; then
            sweep 'franz-*.test'
            go vet . && go test -c -o "$program.part" . && mv "$program.part" "$program"
        fi
        touch "$program"
        ;;
    version) go list -m -f '{{.Path}} {{.Version}}' github.com/twmb/franz-go ;;
    test)
        [ -x "$program" ] || "$clients_dir/go/run.sh" install
        export ESKER_BROKER_SCRIPT="$clients_dir/broker.py"
        exec "$program" -test.v -test.timeout 9m "${@:2}"
        ;;
esac
