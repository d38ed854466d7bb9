#!/usr/bin/env bash
# Compile DeepSpeed's CPU operator (about 40 s, cached by torch) with PYTHON: deepspeed_operator.sh PYTHON
set -euo pipefail
if ! command -v g++ >/dev/null; then
  echo "no g++: DeepSpeed's processes on the CPU cannot exchange gradients (as root: apt-get install g++)" >&2
  exit 1
fi
TORCH_EXTENSIONS_DIR=$("$1" -c 'import sys; print(sys.prefix)')/torch_extensions # where runs/launch.py looks
export TORCH_EXTENSIONS_DIR
mkdir -p "$TORCH_EXTENSIONS_DIR"
echo "compiling DeepSpeed's CPU operator, once"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$1" -c "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()" >"$log" 2>&1 ||
  { cat "$log" >&2; exit 1; }
