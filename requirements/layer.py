"""Put r1kit's packages on top of an image without touching the image's own builds of torch and vLLM.

    layer.py freeze FOLDER --base IMAGE --stack rocm|cuda|cpu    what the image brings, as constraints
    layer.py install FOLDER                                      the packages, under those constraints
    layer.py check FOLDER                                        fails if anything of the image changed

Constraints come from installed metadata, not from `pip freeze`: an image's wheels freeze as `torch @ file:///…`,
which is no constraint. Standard library only; it runs under the image's Python. The doctor reads
FOLDER/image.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What is built for the image's driver and compiler, and what vLLM is tied to.
KEPT = re.compile(
    r"torch(vision|audio|codec|ao)?|(pytorch-)?triton.*|vllm.*|flash-attn.*|flashinfer.*|xformers|(amd-)?aiter|amdsmi"
    r"|nvidia-(?!ml-py).*|cuda-.*|numpy|transformers|tokenizers|huggingface-hub"
)
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def canonical(name: str) -> str:
    """A distribution's name as packaging normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Every distribution that this Python sees."""
    return {
        canonical(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def torch_build() -> str:
    """`hip=… cuda=…` of the installed torch, read from its version.py; empty without one."""
    spec = util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if path is None or not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^(hip|cuda)\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
    return " ".join(f"{name}={value.strip()}" for name, value in sorted(found))


def complaints() -> list[str]:
    """What `pip check` complains about: one line for each requirement that is not met."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    return sorted(done.stdout.splitlines()) if done.returncode else []


def freeze(folder: Path, base: str, stack: str) -> None:
    """Write image.json and constraints.txt."""
    kept = {name: version for name, version in installed().items() if KEPT.fullmatch(name)}
    if stack != "cpu" and not {"torch", "vllm"} <= set(kept):
        sys.exit(f"{base} has no torch or no vLLM: not an image that r1kit can be put on (stack {stack})")
    if stack == "rocm" and "hip=None" in torch_build():
        sys.exit(f"{base}'s torch is not built for ROCm: {torch_build()}")
    record = {"base": base, "stack": stack, "kept": kept, "torch": torch_build(), "complaints": complaints()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [f"{name}=={version}" for name, version in sorted(kept.items())]
    (folder / "constraints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"kept as they are: {', '.join(lines) or 'nothing'}")


def install(folder: Path) -> None:
    """Install image.txt under the image's constraints; on the CPU the whole lock, which needs none."""
    record = read(folder)
    if record["stack"] == "cpu":
        lock = (HERE / "cpu.txt").read_text(encoding="utf-8").splitlines()
        torch = next(line.split(" ;")[0] for line in lock if line.startswith("torch=="))
        if pip("install", "--no-deps", torch):
            must(pip("install", "--no-deps", "--index-url", TORCH_INDEX, torch))
        must(pip("install", "--no-deps", "-r", str(HERE / "cpu.txt")))
        return
    os.environ["DS_BUILD_OPS"] = "0"  # DeepSpeed compiles its operators when they are used
    must(pip("install", "--constraint", str(folder / "constraints.txt"), "-r", str(HERE / "image.txt")))


def check(folder: Path) -> None:
    """Exit with every change of the image's own packages, and every requirement that was met before."""
    record, now = read(folder), installed()
    wrong = [
        f"{name} was {version} and is {now.get(name, 'gone')}"
        for name, version in record["kept"].items()
        if now.get(name) != version
    ]
    if record["torch"] and torch_build() != record["torch"]:
        wrong.append(f"torch was built with {record['torch']} and is with {torch_build() or 'nothing'}")
    wrong += [line for line in complaints() if line not in record["complaints"]]
    if wrong:
        sys.exit("the image's own packages did not survive:\n  " + "\n  ".join(wrong))
    print("the image's own packages are as they were")


def read(folder: Path) -> dict:
    """image.json."""
    return json.loads((folder / "image.json").read_text(encoding="utf-8"))


def pip(*arguments: str) -> int:
    """pip's exit code."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments]).returncode


def must(code: int) -> None:
    """End with pip's exit code unless it is 0."""
    if code:
        sys.exit(code)


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("freeze", "install", "check"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="")
    parser.add_argument("--stack", choices=("rocm", "cuda", "cpu"), default="rocm")
    options = parser.parse_args()
    if options.step == "freeze":
        freeze(options.folder, options.base, options.stack)
    else:
        {"install": install, "check": check}[options.step](options.folder)


if __name__ == "__main__":
    main()
