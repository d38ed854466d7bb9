#!/usr/bin/env bash
# Install Debian packages where a program is missing and we may: debian.sh PROGRAM "WHAT HAPPENS WITHOUT" PACKAGE...
set -uo pipefail
program=$1 without=$2
shift 2
[ -x "/usr/bin/$program" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no $program: $without (as root: apt-get install $*)"
  exit 0
fi
echo "installing $* (Debian)"
export DEBIAN_FRONTEND=noninteractive
{ apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } >/dev/null \
  || echo "apt-get could not install $*: $without"
