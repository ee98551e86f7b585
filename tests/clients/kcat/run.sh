#!/usr/bin/env bash
# install | version | test [TEST…]; called by ../run.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
case $1 in
    install) install_kcat; install_python ;; # python makes the topics
    version) kcat -V | sed -n 's,^Version \([0-9.]*\).*\(librdkafka [0-9.]*\).*,kcat \1 \2,p' ;;
    test) exec "$clients_dir/kcat/suite.sh" "${@:2}" ;;
esac
