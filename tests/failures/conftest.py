"""A job that does not want to end, and ways to see whether anything of it is left.

Every process of the stubborn job carries the job folder's path on its command line, wherever it ran to, and
so does its supervisor.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.failures.cluster import eager_to_end
from tests.training.conftest import tokenizer  # noqa: F401 - a fixture
from tests.training.conftest import world as plain_world  # noqa: F401 - a fixture

# A trainer that ignores every polite signal, with a child in its own session, one under nohup, one daemon.
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
folder = os.path.dirname(sys.argv[1])
sleep = "import time; time.sleep(600)"
daemon = "import os, time\\nif os.fork(): os._exit(0)\\nos.setsid()\\n" + sleep
quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
subprocess.Popen([sys.executable, "-c", sleep, folder], start_new_session=True, **quiet)
subprocess.Popen(["nohup", sys.executable, "-c", sleep, folder], **quiet)
subprocess.Popen([sys.executable, "-c", daemon, folder], **quiet).wait()
open(os.path.join(folder, "up"), "w").close()
print("up", flush=True)
time.sleep(600)
"""

# A trainer that saves on SIGTERM, as ours do.
OBEDIENT = """
import os, signal, sys, time
folder = os.path.dirname(sys.argv[1])
def save(*_):
    time.sleep(0.3)
    open(os.path.join(folder, "saved"), "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
open(os.path.join(folder, "up"), "w").close()
time.sleep(600)
"""
# Under nohup SIGHUP is ignored, and whoever we start inherits that; here the hang-up must be heard.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

BOUND = 20.0  # seconds; all that is measured here takes 1 to 4 on two idle cores


class Watched:
    """A job folder, and the processes that carry its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"PYTHONPATH": str(folder.parent / "modules")}

    def processes(self) -> list[psutil.Process]:
        """Everything alive that names the folder on its command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = any(str(self.folder) in part for part in process.cmdline())
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until_up(self, at_least: int = 1) -> None:
        """Until the trainer says it is up and `at_least` processes are there."""
        wait_for(lambda: (self.folder / "up").exists() and len(self.processes()) >= at_least, "the job is up")

    def wait_until_gone(self) -> float:
        """Until nothing is left; seconds it took."""
        return wait_for(lambda: not self.processes(), lambda: f"still there: {self.processes()}")


def wait_for(condition, what, bound: float = BOUND) -> float:
    """Poll until `condition()`; seconds it took. Fails after `bound` seconds."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > bound:
            pytest.fail(f"not within {bound} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture
def job(tmp_path):
    """A job folder and the modules `stubborn` and `obedient`; whatever survives a test is killed after it."""
    folder, modules = tmp_path / "job", tmp_path / "modules"
    folder.mkdir()
    modules.mkdir()
    (folder / "resolved.yaml").write_text("profile: none\n")
    (modules / "stubborn.py").write_text(STUBBORN)
    (modules / "obedient.py").write_text(OBEDIENT)
    watched = Watched(folder)
    yield watched
    for process in watched.processes():
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture
def supervise(job):
    """Start the supervisor by itself; `portable=True` switches off what only Linux has."""
    started = []

    def start(module: str, *options: str, portable: bool = False, **popen) -> subprocess.Popen:
        off = "processes.LINUX = False; " if portable else ""
        program = f"import sys; from r1kit.runs import processes, supervise; {off}sys.exit(supervise.main())"
        command = [sys.executable, "-m", module, str(job.folder / "resolved.yaml")]
        limits = ["--folder", str(job.folder), "--grace", "0.5", *options]
        process = subprocess.Popen(
            [sys.executable, "-c", program, *limits, "--", *command],
            env=os.environ | job.environment,
            start_new_session=True,
            **popen,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook with a parameters cell and the given cells; returns its path."""
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    def make(*cells: str, parameters: str = "X = 0\nNAME: str = 'a=b'") -> Path:
        first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        others = [new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
        write(new_notebook(cells=[first, *others], metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
        return tmp_path / "in.ipynb"

    return make


@pytest.fixture(scope="session")
def world(plain_world: Path, tmp_path_factory) -> Path:  # noqa: F811
    """The world of tests/training with a base model whose completions differ in length."""
    folder = tmp_path_factory.mktemp("eager") / "world"
    shutil.copytree(plain_world, folder)
    eager_to_end(folder / "base")
    return folder
