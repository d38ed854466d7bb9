"""Whoever dies, notebook, kernel, papermill or terminal: no process of a training stays behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import psutil
import pytest

from r1kit.runs import status
from tests.failures.conftest import wait_for

pytestmark = [pytest.mark.failures, pytest.mark.slow]
ALL = 6  # guard, worker, trainer, own session, nohup, daemon
# Takes its standard input as controlling terminal, as a login shell does, then becomes the command.
LOGIN = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def training(job, notebook, tmp_path):
    """papermill on a notebook that waits for a stubborn training, up and running."""
    path = notebook(
        f"""
        from r1kit.runs.launch import launch
        environment = {{"PYTHONPATH": {job.environment["PYTHONPATH"]!r}}}
        job = launch("stubborn", {str(job.folder)!r}, accelerate=False, grace=0.5, environment=environment)
        """,
        "await job.finished()",
        "print('never reached')",
    )
    output = tmp_path / "out.ipynb"
    command = ["-m", "papermill", "--engine", "r1kit", "--no-progress-bar", str(path), str(output)]
    started = []

    def start(spawn=subprocess.Popen):
        process = spawn([sys.executable, *command])
        started.append(process)
        job.wait_until_up(ALL)
        kernel = next(
            child
            for child in psutil.Process(process.pid).children()
            if "ipykernel_launcher" in " ".join(child.cmdline())
        )
        return process, kernel, output

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def statuses(output):
    cells = json.loads(output.read_text())["cells"]
    return [
        cell["metadata"]["papermill"]["status"]
        for cell in cells
        if "status" in cell["metadata"].get("papermill", {})
    ]


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_nothing_stays_when_papermill_is_ended(job, training, number, code):
    papermill, kernel, output = training()
    papermill.send_signal(number)
    took = job.wait_until_gone()
    assert papermill.wait(timeout=20) == code
    wait_for(lambda: not kernel.is_running(), "the kernel is gone")
    print(f"{signal.Signals(number).name}: gone after {took:.2f} s")
    assert status.read(job.folder)["job"]["clean"] is True
    if number != signal.SIGKILL:
        assert statuses(output) == ["completed", "completed", "failed", "pending"]
        assert (
            signal.Signals(number).name in json.loads(output.read_text())["metadata"]["papermill"]["reason"]
        )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 138), (signal.SIGINT, 1)])
def test_nothing_stays_when_the_kernel_is_ended(job, training, number, code):
    papermill, kernel, output = training()
    kernel.send_signal(number)
    took = job.wait_until_gone()
    print(f"kernel {signal.Signals(number).name}: gone after {took:.2f} s")
    assert papermill.wait(timeout=20) == code
    assert statuses(output) == ["completed", "completed", "failed", "pending"]
    by_the_notebook = number == signal.SIGINT  # the interrupted cell stops its job
    assert status.read(job.folder)["job"]["ended_by"] == ("SIGTERM" if by_the_notebook else "owner died")


def test_nothing_stays_when_the_supervisor_is_killed(job, training):
    papermill, _, output = training()
    guard = status.read(job.folder)["job"]["pid"]
    os.kill(guard, signal.SIGKILL)
    job.wait_until_gone()
    assert papermill.wait(timeout=20) == 1
    errors = [
        output for cell in json.loads(output.read_text())["cells"] for output in cell.get("outputs", [])
    ]
    assert "its supervisor was killed" in errors[-1]["evalue"]


def test_nothing_stays_when_the_terminal_hangs_up(job, training):
    terminals = []

    def in_a_terminal(command):
        master, slave = pty.openpty()
        terminals.append(master)
        process = subprocess.Popen(
            [sys.executable, "-c", LOGIN, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        return process

    papermill, kernel, output = training(in_a_terminal)
    os.close(terminals[0])
    took = job.wait_until_gone()
    print(f"hang-up: gone after {took:.2f} s")
    assert papermill.wait(timeout=20) == 129
    wait_for(lambda: not kernel.is_running(), "the kernel is gone")
    assert statuses(output) == ["completed", "completed", "failed", "pending"]
