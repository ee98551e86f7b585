#!/usr/bin/env bash
# install | version | test [NAME-PATTERN]; called by ../run.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cd "$clients_dir/node"
case $1 in
    install)
        need node "install Node.js 20 or newer, with npm"; need npm "install npm"
        cmp -s package-lock.json node_modules/.installed || {
            npm ci --silent --ignore-scripts --no-audit --no-fund >&2 || die "npm could not install package-lock.json"
            cp package-lock.json node_modules/.installed
        }
        ;;
    version) node -p '"kafkajs " + require("./node_modules/kafkajs/package.json").version + ", node " + process.version' ;;
    test)
        export ESKER_BROKER_SCRIPT="$clients_dir/broker.py" KAFKAJS_NO_PARTITIONER_WARNING=1
        pattern=(); [ $# -eq 1 ] || pattern=("--test-name-pattern=$2")
        exec node --test --test-reporter=spec "${pattern[@]}" suite.test.mjs
        ;;
esac
