"""One Slurm for all tests of this folder, and batch scripts that run a training directly."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from pathlib import Path

import psutil
import pytest

from .cluster import Cluster, missing

# What a notebook's cell does, without the notebook: launch, wait, and stop with a checkpoint on SIGTERM.
DRIVER = """
import signal, sys
from r1kit.runs.launch import launch
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
job = launch(sys.argv[1], sys.argv[2], grace=float(sys.argv[3]))
try:
    job.wait()
except KeyboardInterrupt:
    sys.exit(143)
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Two idle nodes."""
    if missing():
        pytest.skip(f"no Slurm on this machine ({', '.join(missing())} missing): make slurm")
    found = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def site(tmp_path) -> Path:
    """A site file for this machine: both nodes talk over the loopback interface."""
    path = tmp_path / "site.yaml"
    path.write_text(
        "time: '1:00:00'\nenvironment: {GLOO_SOCKET_IFNAME: lo, OMP_NUM_THREADS: 1, HF_HUB_OFFLINE: 1}\n"
    )
    return path


@pytest.fixture
def slurm(cluster, tmp_path, monkeypatch):
    """This process as one that talks to the cluster, with its own runs folder; its jobs are ended after."""
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.cancel_all()
    for process in processes_of(tmp_path):
        with contextlib.suppress(psutil.Error):
            process.kill()


@pytest.fixture
def two_nodes():
    """Settings of a profile that trains on the CPUs of two nodes."""
    return {
        "accelerate.distributed_type": "MULTI_CPU",
        "accelerate.num_machines": 2,
        "accelerate.num_processes": 2,
    }


@pytest.fixture
def submit(slurm, site, two_nodes):
    """Give Slurm the batch script of a new two-node run that trains in `folder`; returns (run, job)."""

    def submit(module: str, folder: Path, grace: float = 30.0, **changes):
        from r1kit.pipeline import slurm as jobs
        from r1kit.pipeline.open_run import new_run
        from r1kit.settings.machine import load_site

        run, settings = new_run("cpu-tiny", two_nodes | changes)
        (folder / "accelerate.yaml").write_text(settings.accelerate_yaml())
        script = jobs.render(run, settings, ["02_sft"], load_site(str(site)))
        command = shlex.join([sys.executable, "-c", DRIVER, module, str(folder), str(grace)])
        script = replace_command(script, command)
        return run, jobs.submit(run, script)

    return submit


def replace_command(script: str, command: str) -> str:
    """A rendered batch script that runs something else than `r1kit run`."""
    changed, count = re.subn(r"^.* -m r1kit run .*(?= &$)", lambda _: command, script, flags=re.MULTILINE)
    assert count == 1
    return changed


def processes_of(folder: Path) -> list[psutil.Process]:
    """Everything alive that names the folder on its command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = any(str(folder) in part for part in process.cmdline())
            if named and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found
