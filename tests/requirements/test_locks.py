"""The locks are what requirements/*.in ask for, and `make lock` moves nothing that nobody asked to move."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
LAYERS = {"cpu": [], "test": ["cpu"], "cluster": ["cpu"], "lighteval": ["cpu"]}
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton", "setuptools", "pip", "wheel"}


def wanted(path):
    """The requirements of an .in file or a lock that count on this machine."""
    lines = (line.partition(" #")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-c"))]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def locked(name):
    """Package -> release of a lock, over those that it is installed on."""
    pins = {}
    for layer in [*LAYERS[name], name]:
        for one in wanted(LOCKS / f"{layer}.txt"):
            (pin,) = one.specifier
            pins[canonicalize_name(one.name)] = pin.version
    return pins


@pytest.mark.parametrize("name", LAYERS)
def test_a_lock_holds_all_that_its_list_names_in_releases_that_it_allows(name):
    pins = locked(name)
    for one in wanted(LOCKS / f"{name}.in"):
        version = pins[canonicalize_name(one.name)]
        # lighteval's list says which torch it is resolved with; .venv has the CPU's build of it.
        assert one.specifier.contains(version.removesuffix("+cpu")) or one.specifier.contains(version), one


def test_what_the_package_depends_on_is_in_the_list_for_the_cpu():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {canonicalize_name(one.name) for one in wanted(LOCKS / "cpu.in")}
    assert {canonicalize_name(Requirement(one).name) for one in project["dependencies"]} <= listed


def test_locks_are_closed_since_pip_installs_them_without_resolving():
    """A package that was added by hand lacks what it needs itself."""
    pins = locked("test")
    for package, version in pins.items():
        try:
            there = distribution(package)
        except PackageNotFoundError:
            continue
        if there.version.partition("+")[0] != version.partition("+")[0]:
            continue  # another release is installed here, which may need other things
        for text in there.requires or ():
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            if other in LEFT_OUT or other.startswith(("nvidia-", "cuda-")):
                continue
            assert other in pins, f"{package} {version} needs {need}"
            assert need.specifier.contains(pins[other], prereleases=True), f"{package} {version} needs {need}"


RESOLVER = """#!/usr/bin/env bash
[ "$1" = run ] && { echo "$*" > "$(dirname "$0")/ran"; exit 0; }
[[ " $* " = *" --universal "* ]] && universal=yes
while [ "$1" != -o ]; do shift; done
grep -q '^numpy==' "$2" || { echo "nobody told what is locked" >&2; exit 1; }
grep -v '^#' "${2%.new}.txt" > "$2"
[ -z "$universal" ] || cat >> "$2" <<'END'
onlythere==1.0 ; sys_platform == 'win32'
pywinpty==3.1 ; os_name == 'nt'
nowindows==2.0 ; sys_platform != 'emscripten' and sys_platform != 'win32'
END
"""


def test_make_lock_keeps_what_is_locked_and_drops_windows_alone(tmp_path):
    """The first pattern for Windows took pexpect too, whose marker excludes it."""
    shutil.copytree(LOCKS, tmp_path / "requirements")
    resolver = tmp_path / "bin" / "uv"
    resolver.parent.mkdir()
    resolver.write_text(RESOLVER)
    resolver.chmod(0o755)
    environment = os.environ | {"PATH": f"{resolver.parent}:{os.environ['PATH']}"}
    lock = ["bash", str(tmp_path / "requirements" / "lock.sh")]
    done = subprocess.run(lock, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in LAYERS:
        before, after = (
            (folder / f"{name}.txt").read_text().splitlines() for folder in (LOCKS, tmp_path / "requirements")
        )
        assert [line for line in after if "nowindows" not in line] == before
    assert "nowindows==2.0" in (tmp_path / "requirements" / "cpu.txt").read_text()
    assert (resolver.parent / "ran").read_text().strip().endswith("requirements/trl_keys.py")
