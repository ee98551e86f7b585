#!/usr/bin/env bash
# install | version | test [TEST…]; called by ../run.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
python="$cache/venv/bin/python"
case $1 in
    install) install_python ;;
    version) "$python" -c 'import confluent_kafka as c; print("confluent-kafka", c.version(), "librdkafka", c.libversion()[0])' ;;
    test) cd "$clients_dir/python" && exec "$python" -B -m unittest -v "${@:2}" ;;
esac
