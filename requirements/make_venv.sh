#!/usr/bin/env bash
# make_venv.sh PYTHON FOLDER: a virtual environment, with the Debian package that it needs where we may install it.
set -euo pipefail
python=${1:-} folder=$2
fail() { printf '%s\n' "$@" >&2; exit 2; }

[ -n "$python" ] || fail "No python3 found. Install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
  fail "$("$python" --version) found at $python, but r1kit's lock is for Python 3.11 to 3.13." \
       "Name another one: make setup PYTHON=/path/to/python3.11"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing the Debian package $package"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package" >/dev/null
  else
    fail "This Python cannot make virtual environments. Install its package, then call make again:" \
         "  sudo apt-get install $package"
  fi
fi
"$python" -m venv "$folder"
