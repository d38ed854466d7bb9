"""`python requirements/matrix.py`: the files that name releases, made from r1kit/machine/versions.py.

With --check nothing is written: exit code 1 and the names of the files that are not as they would be made.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from r1kit.machine.versions import MATRIX, PYTHON  # noqa: E402 - only now can it be found

PINS = {pin.name: pin for pin in MATRIX}
MADE = "made by `make matrix` from r1kit/machine/versions.py"


def needed() -> list[str]:
    """What r1kit imports, as pyproject.toml says it, without versions of ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["dependencies"], key=str.lower)


def pinned(name: str) -> str:
    """`name==release` where the matrix has one, else the name as it stands."""
    return f"{name}=={PINS[name].version}" if name in PINS else name


def cpu() -> str:
    """requirements/cpu.in: r1kit on a CPU; torch's CPU build has a name of its own on Linux."""
    lines = [f"# What r1kit is built on; {MADE}. `make lock` turns it into cpu.txt."]
    for name in needed():
        if name == "torch":
            version = PINS["torch"].version
            lines += [
                f"torch=={version}+cpu ; sys_platform == 'linux'",
                f"torch=={version} ; sys_platform == 'darwin'",
            ]
        else:
            lines.append(pinned(name))
    return "\n".join(lines) + "\n"


def image() -> str:
    """requirements/image.txt: what goes on top of a GPU image, and nothing that the image brings itself."""
    names = [name for name in needed() if not (name in PINS and PINS[name].image)]
    names += [pin.name for pin in MATRIX if pin.layered]
    heading = [
        f"# What a GPU image gets on top (Dockerfile, layer.py); {MADE}.",
        "# Not torch, vLLM, transformers, numpy: the image's own stay, constraints hold them where they are.",
    ]
    return "\n".join([*heading, *(pinned(name) for name in sorted(names, key=str.lower))]) + "\n"


def conda() -> str:
    """environment.yml: the same for conda on a machine with an NVIDIA GPU and no containers."""
    names = [*needed(), *(pin.name for pin in MATRIX if pin.layered or pin.name == "vllm")]
    lines = [
        f"# conda env create -f environment.yml: for NVIDIA GPUs without containers; {MADE}.",
        "# On ROCm take the image (Dockerfile), on a CPU `make setup`: other builds of torch and vLLM.",
        "name: r1kit",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={'.'.join(map(str, PYTHON[1]))}",
        "  - cxx-compiler # DeepSpeed and torch.compile build with it",
        "  - pip",
        "  - pip:",
        *(f"      - {pinned(name)}" for name in sorted(names, key=str.lower)),
        "      - --editable .",
    ]
    return "\n".join(lines) + "\n"


FILES = {"requirements/cpu.in": cpu, "requirements/image.txt": image, "environment.yml": conda}


def main(arguments: list[str]) -> int:
    """Write the files that differ, or say which do."""
    stale = [name for name, make in FILES.items() if not same(ROOT / name, make())]
    for name in stale:
        if "--check" in arguments:
            print(f"{name} is not what the matrix makes of it: make matrix")
        else:
            (ROOT / name).write_text(FILES[name](), encoding="utf-8")
            print(f"wrote {name}")
    return 1 if stale and "--check" in arguments else 0


def same(path: Path, text: str) -> bool:
    """Whether the file has exactly this text."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
