#!/usr/bin/env bash
# Resolve requirements/*.in into exact, universal locks (Linux and macOS, Python 3.11 to 3.13). What is locked stays unless
# an .in file asks for another release; `lock.sh --upgrade` takes the newest of everything. The locked TRL's keys go to
# r1kit/settings/trl_keys.json.
# Where the registry lacks torch's CPU build, give its wheel: FIND_LINKS=/folder/with/wheels make lock
set -euo pipefail
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "uv is needed: pip install uv" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
here=$PWD
cp ./*.in ./*.overrides ./*.txt "$work"
cd "$work"
upgrade=("$@")
# resolve NAME OPTION...: NAME.in into NAME.new, keeping the releases of NAME.txt, and of cpu.txt where that has none.
resolve() {
  { cat "$1.txt"; awk -F '==' 'FNR == NR { have[$1]; next } !($1 in have)' "$1.txt" cpu.txt; } >"$1.new"
  uv pip compile "$1.in" -o "$1.new" --python-version 3.11 --no-header --no-annotate --quiet "${upgrade[@]}" "${@:2}" \
    ${FIND_LINKS:+--find-links "$FIND_LINKS"} >/dev/null
}
# finish NAME FILTER...: NAME.txt is what the filter lets through, below its old head.
finish() {
  { grep '^#' "$1.txt"; "${@:2}" <"$1.new"; } >"$1.done"
  mv "$1.done" "$1.txt"
}
# Windows is reached through WSL2, which is Linux. A marker that excludes Windows names it too, so the whole of it is compared.
not_windows() { grep -vE "^[^;]*; \(?(sys_platform == 'win32'|os_name == 'nt'|platform_system == 'Windows')\)?$"; }
# Without what cpu.txt installs on every Python: its lines for one Python only are needed here on all.
not_in_cpu() {
  not_windows | awk -F ' *;' 'FNR == NR { if (!/python_full_version/) have[$1]; next } !($1 in have) && !/^torch==/' cpu.txt -
}
# lighteval's environment lies over .venv: what both have alike, and torch, is .venv's.
over_cpu() { grep -vE '^(torch|nvidia|cuda|triton)' | grep -vxFf <(sed 's/ *;.*//' cpu.txt); }

resolve cpu --universal
finish cpu not_windows
resolve test --universal
finish test not_in_cpu
resolve cluster --universal --override cluster.overrides
finish cluster not_in_cpu
shared='^(accelerate|datasets|huggingface-hub|numpy|pandas|pyarrow|safetensors|tokenizers|transformers)=='
resolve lighteval -c <(grep -E "$shared" cpu.txt)
finish lighteval over_cpu
mv cpu.txt test.txt cluster.txt lighteval.txt "$here"
# The keys of the locked TRL, transformers and accelerate, from their classes in an environment of their own.
uv run --quiet --no-project --isolated --with-requirements "$here/cpu.txt" ${FIND_LINKS:+--find-links "$FIND_LINKS"} \
  python "$here/trl_keys.py"
