#!/bin/sh
# Make a virtual environment: make_venv.sh PYTHON DIRECTORY.  On a Debian-like system, as root, installs python3-venv first
# when it is missing; everywhere else says what to install.
set -eu
python=$1 directory=$2
here=$(dirname "$0")

usable() {
    command -v "$python" >/dev/null || { fault="$python is not installed"; return 1; }
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        fault="$("$python" --version) is too old; rootsrv needs Python 3.11 or newer"; return 1; }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || {
        fault="$python cannot make virtual environments (no venv or ensurepip module)"; return 1; }
}

if ! usable; then
    if [ "$python" = python3 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$fault; installing python3-venv"
        "$here/install_system_packages.sh" python3 python3-venv
    fi
    usable || {
        echo "$fault." >&2
        echo "On Debian or Ubuntu: apt-get install python3-venv   (or name another interpreter: make PYTHON=python3.12 …)" >&2
        exit 1
    }
fi

rm -rf "$directory"
"$python" -m venv "$directory"
