"""The hostile programs, in every tier that this machine has, as root and as an ordinary user."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1kit.sandbox import Sandbox, tiers
from tests.sandbox.hostile import TABLE, Surroundings, run, run_all

REPOSITORY = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # an ordinary user cannot enter the folder of root's virtual environment
# A fork server never has /proc, so the tier without it has nothing new there.
MODES = [(tier, mode) for tier in tiers.NAMES for mode in ("spawn", "fork")]
MODES.remove(("bubblewrap-no-proc", "fork"))
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="module")
def enclosed():
    """The mode in which a program is least alone, and fast: most rows take 5 ms."""
    if not any(tier.available for tier in tiers.probe(fork_server=True)):
        pytest.skip("no tier works here")
    with Surroundings() as surroundings, Sandbox(1, fork_server=True) as sandbox:
        yield sandbox, surroundings
        assert surroundings.damage() == []
        assert sandbox.counts["leaked"] == 0


def test_the_table_has_all_programs_of_the_list():
    assert len({row.name for row in TABLE}) == len(TABLE) >= 62


@pytest.mark.parametrize("row", [row for row in TABLE if row.quick], ids=lambda row: row.name)
def test_is_contained(enclosed, row):
    sandbox, surroundings = enclosed
    assert run(sandbox, surroundings, row) == ""


WORST = (
    "fork bomb", "thread bomb", "memory bomb", "endless stdout", "connect to a port of the host",
    "read a file of the tests by any path", "every environment", "every command line",
    "inherited descriptors", "write where nothing may be written", "fill every disk",
    "signal its parent, init and everybody",
    "limits hold for its init too", "trace other processes", "new namespaces", "legal threads and memory",
)  # fmt: skip


def test_the_worst_are_contained_alone():
    skip_without(tiers.NAMES[0], False)
    rows = [row for row in TABLE if row.name in WORST]
    assert len(rows) == len(WORST)
    assert run_all(tiers.NAMES[0], False, workers=2, rows=rows) == []


def skip_without(tier, fork_server):
    found = tiers.try_tier(tier, fork_server=fork_server)
    if not found.available:
        pytest.skip(f"{tier}: {found.reason}")


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "mode"), MODES)
def test_all_are_contained(tier, mode):
    skip_without(tier, mode == "fork")
    assert run_all(tier, mode == "fork") == []


@pytest.mark.slow
@pytest.mark.parametrize(("tier", "mode"), MODES)
def test_all_are_contained_for_an_ordinary_user(tier, mode):
    if os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    if not (shutil.which("setpriv") and Path(SYSTEM_PYTHON).exists()):
        pytest.skip("needs setpriv and the system's python3")
    if subprocess.run([*NOBODY, "test", "-r", str(REPOSITORY / "r1kit" / "__init__.py")]).returncode:
        pytest.skip("an ordinary user cannot read this checkout")
    skip_without(tier, mode == "fork")
    # Time limits take seconds each and do not depend on the user: once for each kind of tier is enough.
    rows = "all" if mode == "spawn" and tier != "bubblewrap-no-proc" else "quick"
    command = [*NOBODY, SYSTEM_PYTHON, "-B", "-m", "tests.sandbox.hostile", tier, mode, rows]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_sandbox_needs_only_the_standard_library():
    code = (
        "import sys, r1kit.sandbox\n"
        "ours = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in ours if not name.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['r1kit']"
