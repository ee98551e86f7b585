# Shared by run.sh and the shell suites: paths, installers with a cache. Sourced, never run.
clients_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$clients_dir/../.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/esker/clients"
mkdir -p "$cache"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is not here: $2"; }

# apt_install PACKAGE...: Debian packages, as root or through sudo.
apt_install() {
    local as=""
    [ "$(id -u)" = 0 ] || as=sudo
    say "installing $* with apt"
    $as apt-get install -y -qq --no-install-recommends "$@" >"$cache/apt.log" 2>&1 || {
        $as apt-get update -qq >>"$cache/apt.log" 2>&1
        $as apt-get install -y -qq --no-install-recommends "$@" >>"$cache/apt.log" 2>&1
    } || { tail -20 "$cache/apt.log" >&2; die "apt could not install $*"; }
}

# content_key FILE...: a short name for what the files hold. Checkouts share the cache; what differs between them is named apart.
content_key() { cat "$@" | sha256sum | cut -c1-16; }

# sweep PATTERN: removes what was made from older sources and not used for a week. Whoever uses such a path touches it.
sweep() { find "$cache" -maxdepth 2 -name "$1" -mtime +7 -prune -exec rm -rf {} +; }

install_kcat() { command -v kcat >/dev/null || apt_install kcat; }

install_python() {
    local wanted="$clients_dir/python/requirements.txt" venv="$cache/venv"
    need python3 "install python3"
    cmp -s "$wanted" "$venv/installed" && return
    python3 -m venv "$venv" 2>/dev/null || { apt_install python3-venv; python3 -m venv "$venv"; }
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted" >&2 || die "pip could not install $wanted"
    cp "$wanted" "$venv/installed"
}
