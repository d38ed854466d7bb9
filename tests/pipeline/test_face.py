"""`import r1kit` is light, every name that it shows exists, and the first cell of a notebook stays small."""

import os
import subprocess
import sys

import pytest

import r1kit


@pytest.mark.parametrize("name", r1kit.__all__)
def test_every_public_name_resolves(name):
    assert name in dir(r1kit)
    assert getattr(r1kit, name) is not None


def test_names_are_not_invented():
    with pytest.raises(AttributeError, match="no_such_name"):
        r1kit.no_such_name  # noqa: B018


def loaded(code, **variables):
    code += "\nimport sys; print(*(name for name in sys.modules if name.startswith('r1kit')))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_the_package_loads_none_of_its_modules():
    assert loaded("import r1kit") == ["r1kit"]


def test_opening_a_stage_loads_only_what_it_uses(tmp_path):
    code = "import r1kit; r1kit.open_stage('00_environment', {'PROFILE': 'cpu-tiny', 'RUN_ID': ''})"
    modules = loaded(code, R1KIT_RUNS=str(tmp_path))
    assert len(modules) <= 60
    assert not {name.split(".")[1] for name in modules[1:]} & {"rewards", "serving", "training", "evaluation"}
