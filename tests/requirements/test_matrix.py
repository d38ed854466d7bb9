"""Everything that names a release names the one of the version matrix."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from r1kit.machine import versions
from r1kit.machine.versions import BASES, MATRIX, Comparison, Pin

ROOT = Path(__file__).resolve().parents[2]
PINS = {pin.name: pin.version for pin in MATRIX} | {pin.instead: pin.version for pin in MATRIX if pin.instead}
PIN = re.compile(r"^\s*(?:- )?([A-Za-z0-9._-]+)==([^\s;+]+)", re.MULTILINE)
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_generated_files_are_as_the_matrix_makes_them():
    done = subprocess.run(
        [sys.executable, "requirements/matrix.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "requirements").glob("*.in")), *sorted((ROOT / "requirements").glob("*.txt"))],
    ids=str,
)
def test_every_lock_and_list_agrees_with_the_matrix(path):
    for name, version in PIN.findall(path.read_text()):
        if name in PINS:
            assert version == PINS[name], f"{path.name} says {name}=={version}"


def test_conda_gets_the_same_and_vllm():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    found = dict(PIN.findall("\n".join(environment["dependencies"][-1]["pip"])))
    assert found["vllm"] == PINS["vllm"]
    assert all(PINS.get(name, version) == version for name, version in found.items())


def test_the_images_own_packages_are_not_in_what_is_laid_on_top():
    listed = (ROOT / "requirements/image.txt").read_text()
    names = {re.split(r"[=<>]", line)[0] for line in listed.splitlines() if not line.startswith("#")}
    assert names & {pin.name for pin in MATRIX if pin.image} == set()
    assert {"trl", "deepspeed", "peft", "liger-kernel"} <= names


def test_the_dockerfiles_bases_are_those_of_the_matrix():
    assert re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)[1] == BASES["rocm"].image
    for stack in ("cuda", "cpu"):
        assert f"STACK={stack} " in DOCKERFILE
        assert f"BASE={BASES[stack].image} " in DOCKERFILE


@pytest.mark.parametrize("stack", BASES)
def test_what_a_base_brings_is_what_the_doctor_accepts(stack):
    base = BASES[stack]
    for name in ("torch", "vllm"):
        pin = next(pin for pin in MATRIX if pin.name == name)
        version = getattr(base, name)
        assert version is None or Comparison(pin, version, kept=True).agrees


def test_a_build_of_the_image_is_held_against_a_range_and_anything_else_against_the_pin():
    pin = Pin("vllm", "0.31.0", image=">=0.22,<=0.31.0")
    assert Comparison(pin, "0.27.1+rocm710", kept=True).agrees
    assert not Comparison(pin, "0.19.0", kept=True).agrees
    assert not Comparison(pin, "0.27.1").agrees
    assert Comparison(pin, "0.31.0+cpu").agrees
    assert not Comparison(pin, None, kept=True).agrees


def test_an_images_torch_is_no_reason_to_complain(monkeypatch):
    monkeypatch.setattr(versions, "installed_version", {"torch": "2.12.0+rocm7.1", "trl": "1.15.0"}.get)
    found = {comparison.pin.name: comparison for comparison in versions.compare({"torch": "2.12.0+rocm7.1"})}
    assert found["torch"].agrees
    assert not found["trl"].agrees


def test_the_dockerfile_needs_no_privileges_and_runs_as_an_ordinary_user():
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER r1kit"
    assert "bubblewrap" in DOCKERFILE
    assert not re.search(r"--privileged|pip install (?!--no-deps)", "\n".join(lines))


def test_the_dockerfile_passes_its_linter():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not in the environment (its package is for Linux on x86-64)")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "warning", "Dockerfile"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
