#!/usr/bin/env bash
# Resolve requirements/*.in into exact, universal locks (Linux and macOS, Python 3.11 to 3.13).
# Where the registry lacks torch's CPU build, give its wheel: FIND_LINKS=/folder/with/wheels make lock
set -euo pipefail
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "uv is needed: pip install uv" >&2; exit 2; }
resolve() {
  uv pip compile "$1" --universal --python-version 3.11 --no-header --no-annotate --quiet "${@:2}" \
    ${FIND_LINKS:+--find-links "$FIND_LINKS"}
}
head_of() { grep '^#' "$1"; }
# Windows is reached through WSL2, which is Linux.
not_windows() { grep -vE "^(pywinpty|colorama)|win32|os_name == 'nt'" || true; }
# Without what cpu.txt installs on every Python: its lines for one Python only are needed here on all.
not_in_cpu() {
  awk -F ' *;' 'FNR == NR { if (!/python_full_version/) have[$1]; next } !($1 in have) && !/^torch==/' cpu.new -
}

{ head_of cpu.txt; resolve cpu.in | not_windows; } > cpu.new
{ head_of test.txt; resolve test.in | not_windows | grep -vxFf cpu.new | grep -v '^torch=='; } > test.new
{ head_of cluster.txt; resolve cluster.in --override cluster.overrides | not_windows | not_in_cpu; } > cluster.new
# lighteval's environment lies over .venv: the heavy packages are those of cpu.txt, the rest is as it wants.
shared='^(accelerate|datasets|huggingface-hub|numpy|pandas|pyarrow|safetensors|tokenizers|transformers)=='
{ head_of lighteval.txt
  uv pip compile lighteval.in -c <(grep -E "$shared" cpu.new) --python-version 3.11 --no-header --no-annotate --quiet \
    ${FIND_LINKS:+--find-links "$FIND_LINKS"} | grep -vE '^(torch|nvidia|cuda|triton)' | grep -vxFf <(sed 's/ *;.*//' cpu.new)
} > lighteval.new
mv lighteval.new lighteval.txt
mv cpu.new cpu.txt && mv test.new test.txt && mv cluster.new cluster.txt
