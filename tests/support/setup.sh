#!/usr/bin/env bash
# Installs the command-line tools that the tests use, where they are missing. Language packages (Python, npm, Go, Maven)
# are installed by the lane that uses them.
set -euo pipefail

missing=()
need() { # command package
  command -v "$1" >/dev/null || missing+=("$2")
}
need cc build-essential
need make build-essential
need kcat kcat
need jq jq
need curl curl
need zstd zstd
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
for part in rustfmt clippy; do
  cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done
echo "tools: $(kcat -V 2>&1 | sed -n 's/^Version //p' | head -1), $(jq --version), $(cargo --version)"
