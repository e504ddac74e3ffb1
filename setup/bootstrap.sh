#!/bin/sh
# bootstrap.sh: make this checkout ready. Debian packages, then .venv with Lastwrite and its tools in it.
#
# Runs in well under a second when nothing has changed: the packages are all there, and .venv was made from
# the same setup.cfg, packages.txt and Python. Interrupted, it begins again where it was.
# Exit status: 0 ready, 1 a step failed (its output says why), 2 this machine lacks root or a Python.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.bootstrapped

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

wanted_packages() { sed 's/#.*//; s/[[:space:]]//g; /^$/d' setup/packages.txt; }

missing_packages() {
    # shellcheck disable=SC2046  # one word per package
    dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' $(wanted_packages) 2>/dev/null |
        sed -n 's/^\([^: ]*\)\(:[a-z0-9]*\)\{0,1\} installed$/\1/p' | sort >"$scratch/installed"
    wanted_packages | sort | comm -23 - "$scratch/installed"
}

# An activated .venv is left out: it cannot be made from itself.
find_python() {
    PATH=$(printf '%s' "$PATH" | sed "s#$PWD/.venv/bin:##g")
    for python in python3.11 python3.12 python3.13 python3; do
        if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then command -v "$python"; return; fi
    done
}

key() { { cat setup.cfg setup/packages.txt; echo "$1"; } | sha256sum | cut -d' ' -f1; }

install_packages() {
    [ "$(id -u)" = 0 ] || die "run as root, or install these yourself: $*"
    command -v apt-get >/dev/null || die "this is no Debian; install the like of: $*"
    say "installing Debian packages: $*"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >"$scratch/apt.log" 2>&1 ||
        { tail -20 "$scratch/apt.log" >&2; say "apt-get failed"; exit 1; }
}

make_environment() {
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        say "making .venv with $1"
        "$1" -m venv --clear .venv
    fi
    say "installing Lastwrite and its Python packages into .venv (a minute or so)"
    .venv/bin/python -m pip install --quiet --editable '.[dev]'
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
missing=$(missing_packages)
# shellcheck disable=SC2086  # one word per package
[ -z "$missing" ] || install_packages $missing

python=$(find_python)
[ -n "$python" ] || die "no Python 3.11 or newer on PATH"
key=$(key "$python")
if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
    rm -f "$stamp"
    make_environment "$python"
    echo "$key" >"$stamp"
    say "ready"
fi
