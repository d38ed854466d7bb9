"""A wheel holds what r1kit reads: profiles, sites and notebooks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_starts_from_an_installed_wheel(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("r1kit", "configs", "notebooks", "sites"):
        shutil.copytree(PROJECT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    shutil.unpack_archive(wheel, installed, "zip")
    code = (
        "import r1kit; from r1kit.pipeline.run import NOTEBOOKS; from r1kit.runs.folder import runs_folder\n"
        "from r1kit.settings.machine import load_site\n"
        "print(r1kit.__file__, r1kit.load_profile('cpu-tiny').name, load_site('thor2').time)\n"
        "print(len(list(NOTEBOOKS.glob('*.ipynb'))), runs_folder())"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(str(installed))
    assert second == f"8 {tmp_path / 'runs'}"
