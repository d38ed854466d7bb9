"""Wheels that hold nothing but their names, so that pip can be watched without a network."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str, *requires: str, files: dict[str, str] | None = None) -> Path:
    """Write a wheel of a distribution that requires others; `files` are its modules."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = dict(files or {f"{module}/__init__.py": ""})
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    contents[f"{info}/METADATA"] = "\n".join(lines) + "\n"
    contents[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{path},," for path in (*contents, f"{info}/RECORD")]
    path = folder / f"{module}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name_inside, text in {**contents, f"{info}/RECORD": "\n".join(record) + "\n"}.items():
            archive.writestr(name_inside, text)
    return path


def torch(folder: Path, version: str, hip: str | None = None, cuda: str | None = None) -> Path:
    """A torch that knows what it was built for."""
    text = f"__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = {hip!r}\n"
    return wheel(folder, "torch", version, files={"torch/__init__.py": "", "torch/version.py": text})
