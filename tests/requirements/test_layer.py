"""The Dockerfile's own steps, run in a virtual environment that plays the base image: what it brought stays.

Incident: a plain `pip install` over a ROCm image may replace its torch by the registry's CUDA build; the
Dockerfile of vLLM itself warns of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .wheels import torch, wheel

pytestmark = pytest.mark.slow  # a virtual environment, and pip in it: 12 s

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def steps(name: str) -> str:
    """The RUN instruction of the Dockerfile that calls this step of layer.py, as a shell command."""
    found = re.findall(r"^RUN (python3 requirements/layer\.py .*)$", DOCKERFILE, re.MULTILINE)
    return next(command for command in found if f"layer.py {name} " in command)


class Image:
    """A virtual environment with the image's packages, and a registry with everybody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry, self.own = folder, folder / "registry", folder / "own"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.state = folder / "opt/r1kit"
        brought = [
            torch(self.own, "2.12.0+rocm7.1", hip="7.1.25424"),
            wheel(self.own, "vllm", "0.27.1+rocm710", "torch==2.12.0+rocm7.1", "transformers<5.16"),
            wheel(self.own, "transformers", "5.15.0", "numpy"),
            wheel(self.own, "numpy", "2.2.6"),
        ]
        self.pip("install", "--no-deps", *map(str, brought))
        torch(self.registry, "2.13.0", cuda="13.0")
        wheel(self.registry, "transformers", "5.17.0")
        wheel(self.registry, "numpy", "2.3.5")
        for line in (ROOT / "requirements/image.txt").read_text().splitlines():
            if not line.startswith("#"):
                name, _, version = re.sub(">=.*", "", line).partition("==")
                wheel(self.registry, name, version or "3.0", *self.needs(name))

    def needs(self, name: str) -> list[str]:
        """As the real ones: nearly all of them ask for torch, none for a particular build."""
        return {
            "trl": ["transformers>=4.56.2", "accelerate"],
            "accelerate": ["torch>=2"],
            "deepspeed": ["torch", "numpy"],
        }.get(name, [])

    def run(self, step: str, stack: str = "rocm") -> subprocess.CompletedProcess:
        """One of the Dockerfile's own commands."""
        command = steps(step).replace("/opt/r1kit", str(self.state))
        path = f"{self.folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            env={**self.offline(), "PATH": path, "BASE": "an-image", "STACK": stack},
            capture_output=True,
            text=True,
        )

    def pip(self, *arguments: str) -> None:
        """pip of the image."""
        python = str(self.folder / "venv/bin/python3")
        subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True, env=self.offline())

    def offline(self) -> dict[str, str]:
        """An environment in which pip knows only our registry."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        return kept | {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.registry),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Image:
    found = Image(tmp_path_factory.mktemp("image"))
    frozen = found.run("freeze")
    assert frozen.returncode == 0, frozen.stderr
    return found


def test_what_the_image_brought_is_written_down_with_its_builds(image):
    constraints = (image.state / "constraints.txt").read_text().splitlines()
    assert constraints == [
        "numpy==2.2.6",
        "torch==2.12.0+rocm7.1",
        "transformers==5.15.0",
        "vllm==0.27.1+rocm710",
    ]


def test_r1kits_packages_go_on_top_and_nothing_of_the_image_moves(image):
    done = image.run("install")
    assert done.returncode == 0, done.stdout + done.stderr
    done = image.run("check")
    assert done.returncode == 0, done.stderr
    assert "as they were" in done.stdout


def test_a_package_that_wants_another_torch_stops_the_build(image):
    wheel(image.registry, "peft", "0.21.2", "torch>=2.13")
    image.pip("uninstall", "--yes", "peft")
    done = image.run("install")
    assert done.returncode != 0
    assert "torch>=2.13" in done.stdout + done.stderr
    wheel(image.registry, "peft", "0.21.2")


def test_a_torch_that_was_replaced_all_the_same_stops_the_build(image):
    image.pip("install", "--no-deps", "torch==2.13.0")
    done = image.run("check")
    assert done.returncode != 0
    assert "torch was 2.12.0+rocm7.1 and is 2.13.0" in done.stderr
    assert "torch was built with cuda=None hip='7.1.25424' and is with cuda='13.0' hip=None" in done.stderr
    assert "vllm 0.27.1+rocm710 has requirement torch==2.12.0+rocm7.1" in done.stderr


def test_an_image_without_rocms_torch_is_refused(image):
    done = image.run("freeze")  # the torch of the test before is CUDA's
    assert done.returncode != 0
    assert "not built for ROCm" in done.stderr
    image.pip("uninstall", "--yes", "vllm")
    assert "no torch or no vLLM" in image.run("freeze", "cuda").stderr
