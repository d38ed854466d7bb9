"""The batch script says what the site and the profile want, and can be run by bash without a cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from r1kit.cli import main
from r1kit.pipeline import slurm
from r1kit.runs import nodes
from r1kit.runs.folder import Run
from r1kit.settings import SettingsError, load_profile
from r1kit.settings.machine import SITE_ROOT, Site, load_site

TWO = {
    "accelerate.distributed_type": "MULTI_CPU",
    "accelerate.num_machines": 2,
    "accelerate.num_processes": 4,
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "with a space"))
    return Run("a-run", tmp_path / "with a space" / "a-run")


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_nodes_time_and_warning_come_from_profile_and_site(run):
    site = Site(
        partition="night", time="12:00:00", server_nodes=1, gpus_per_node=8, options={"constraint": "mi350x"}
    )
    found = directives(slurm.render(run, load_profile("cpu-tiny", TWO), ["02_sft"], site))
    assert {"nodes=3", "time=12:00:00", "partition=night", "gpus-per-node=8", "constraint=mi350x"} <= set(
        found
    )
    assert "exclusive" in found
    assert "signal=B:USR1@120" in found  # grace_seconds of cpu-tiny is 60, and a minute for everybody else
    assert "requeue" in found
    assert "account=None" not in found


def test_a_share_of_a_node_is_not_exclusive(run):
    found = directives(slurm.render(run, load_profile("cpu-tiny"), ["02_sft"], Site(cpus_per_node=4)))
    assert "cpus-per-task=4" in found
    assert "exclusive" not in found


def test_every_directive_stands_before_the_first_command(run):
    lines = slurm.render(run, load_profile("cpu-tiny"), ["02_sft"], Site()).splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]


class Script:
    """The rendered script under bash; its run saves on SIGTERM, and scontrol is a stand-in."""

    def __init__(
        self, run: Run, tmp_path: Path, site: Site, restarts: int = 0, requeue: str = "exit 0"
    ) -> None:
        text = slurm.render(run, load_profile("cpu-tiny"), ["02_sft"], site)
        folder = slurm.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        worker = tmp_path / "worker.py"
        worker.write_text(
            "import os, signal, sys, time\n"
            "def save(*_): time.sleep(0.2); print('saved', flush=True); sys.exit(143)\n"
            "signal.signal(signal.SIGTERM, save)\n"
            "print('up', os.environ.get('NCCL_X'), flush=True)\n"
            "time.sleep(60)\n"
        )
        start = next(line for line in text.splitlines() if " -m r1kit run " in line)
        text = text.replace(start, f"{sys.executable} {worker} &")
        (folder / "job.sbatch").write_text(text)
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "scontrol").write_text(f'#!/bin/bash\necho "scontrol $*"\n{requeue}\n')
        (tools / "sleep").write_text("#!/bin/bash\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        variables = {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.ended = folder / "exit.json"
        self.process = subprocess.Popen(
            ["bash", str(folder / "job.sbatch")],
            env=os.environ | variables | {"PATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.output = self.process.stdout.readline() + self.process.stdout.readline()

    def signal(self, name: str) -> str:
        subprocess.run(["kill", f"-{name}", str(self.process.pid)], check=True)
        return self.output + self.process.communicate(timeout=20)[0]


def test_the_warning_saves_and_requeues_and_says_nothing_of_an_end(run, tmp_path):
    script = Script(run, tmp_path, Site(environment={"NCCL_X": "a b"}))
    output = script.signal("USR1")
    assert output.splitlines()[1:] == [
        "up a b",
        "saved",
        "r1kit: time limit reached, checkpoint saved: requeueing",
        "scontrol requeue 7",
    ]
    assert script.process.returncode == 143
    assert not script.ended.exists()


def test_a_cancelled_job_saves_and_ends(run, tmp_path):
    script = Script(run, tmp_path, Site(), restarts=2)
    assert "saved" in script.signal("TERM")
    assert json.loads(script.ended.read_text()) == {"returncode": 143, "job": "7", "restarts": 2}
    assert "start 3 of job 7 on n[1-2]" in script.output


@pytest.mark.parametrize(
    ("restarts", "requeue", "said"),
    [(3, "exit 0", "already requeued 3 times"), (0, "exit 1", "Slurm refused to requeue job 7")],
)
def test_a_job_that_may_not_go_back_ends_and_says_why(run, tmp_path, restarts, requeue, said):
    script = Script(run, tmp_path, Site(requeues=3), restarts, requeue)
    assert said in script.signal("USR1")
    assert json.loads(script.ended.read_text())["returncode"] == 143


def test_every_shipped_site_loads_and_none_knows_a_gid_index(run):
    for path in SITE_ROOT.glob("*.yaml"):
        site = load_site(path.stem)
        assert "NCCL_IB_GID_INDEX" not in site.environment
        slurm.render(run, load_profile("cpu-tiny"), ["02_sft"], site)


def test_a_wrong_site_says_what_is_allowed(tmp_path):
    with pytest.raises(SettingsError, match="thor2") as caught:
        load_site("thor")
    assert "Did you mean `thor2`" in str(caught.value)
    (tmp_path / "bad.yaml").write_text("partion: night\ntime: soon\n")
    with pytest.raises(SettingsError, match="Did you mean `partition`") as caught:
        load_site(str(tmp_path / "bad.yaml"))
    assert len(caught.value.problems) == 2


def test_without_slurm_the_message_says_where_to_go(run, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(slurm.SlurmError, match="login node"):
        slurm.submit(run, "")
    with pytest.raises(slurm.SlurmError, match="never submitted"):
        slurm.job_of(run)


@pytest.fixture
def job(monkeypatch):
    """As inside a job of three nodes, the last a server, whose names do not resolve."""
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "64")
    monkeypatch.setenv(nodes.SERVER_NODES, "1")
    answers = {"hostnames": "n1\nn2\nn3\n", "node": "NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=vm\n"}
    monkeypatch.setattr(nodes, "_scontrol", lambda *arguments: answers[arguments[1]])

    def unknown(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(nodes.socket, "getaddrinfo", unknown)


def test_the_last_nodes_of_a_job_serve(job):
    assert nodes.allocated() == nodes.Nodes(("n1", "n2"), ("n3",))


def test_a_name_that_resolves_is_its_own_address_and_another_is_asked_of_slurm(job, monkeypatch):
    assert nodes.address("n1") == "10.0.0.1"
    monkeypatch.setattr(nodes.socket, "getaddrinfo", lambda *_: [])
    assert nodes.address("n1") == "n1"


def test_a_training_starts_once_a_process_on_the_trainer_nodes_only(job, tmp_path):
    accelerate = {"num_machines": 2, "num_processes": 16}
    command, rendezvous = nodes.training_step("r1kit.training.sft", tmp_path, accelerate, 60.0)
    assert {"--nodelist=n1,n2", "--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=8"} <= set(command)
    assert command[-2:] == ["r1kit.training.sft", str(tmp_path / "resolved.yaml")]
    assert rendezvous["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("accelerate", "said"),
    [
        ({"num_machines": 3, "num_processes": 3}, "2 of its nodes train"),
        ({"num_machines": 2, "num_processes": 3}, "does not divide among 2 machines"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(job, tmp_path, accelerate, said):
    with pytest.raises(nodes.NoNodes, match=said):
        nodes.training_step("r1kit.training.sft", tmp_path, accelerate, 60.0)


def test_several_machines_without_slurm_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(nodes.NoNodes, match="r1kit run --on slurm"):
        nodes.training_step("r1kit.training.sft", tmp_path, {"num_machines": 2, "num_processes": 2}, 60.0)


def start_step(folder: Path, code: str, grace: float) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "r1kit.runs.nodes",
        "step",
        "--folder",
        str(folder),
        "--grace",
        str(grace),
        "--",
    ]
    process = subprocess.Popen([*command, sys.executable, "-c", code, str(folder)])
    deadline = time.monotonic() + 20
    while not (folder / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


ASKED = "import pathlib, sys, time; here = pathlib.Path(sys.argv[1]); (here / 'up').touch()\n"


def test_a_step_is_asked_to_stop_by_a_file_and_never_signalled(tmp_path):
    (tmp_path / nodes.STOP).touch()  # left by an earlier start
    code = (
        ASKED
        + "while not (here / 'stop').exists(): time.sleep(0.02)\n(here / 'saved').touch(); sys.exit(143)"
    )
    process = start_step(tmp_path, code, grace=60)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 143
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / nodes.STOP).exists()


def test_a_step_that_does_not_stop_is_ended_before_the_grace_is_over(tmp_path):
    process = start_step(tmp_path, ASKED + "time.sleep(60)", grace=nodes.KILL_SECONDS + 0.2)
    process.terminate()
    assert process.wait(20) == 143


def test_a_step_has_the_exit_code_of_its_tasks(tmp_path):
    assert start_step(tmp_path, ASKED + "sys.exit(3)", grace=60).wait(20) == 3


def test_the_batch_job_of_a_pipelines_run_is_its_pipeline_when_it_is_submitted_again(run, monkeypatch):
    """Incident: --resume without --stages submitted all lessons, as of a run that has no pipeline."""
    scripts = []
    monkeypatch.setattr(slurm, "submit", lambda run, script: scripts.append(script) or "7")
    submit = ["run", "--on", "slurm", "--detach"]
    for more in (["--pipeline", "r1", "--run-id", "composed"], ["--resume", "composed"]):
        done = CliRunner().invoke(main.app, [*submit, *more])
        assert done.exit_code == 0, done.output
        assert done.output == "run composed is job 7\n"
    both = CliRunner().invoke(main.app, [*submit, "--resume", "composed", "--pipeline", "r1"])
    assert both.exit_code == 2
    printed = CliRunner().invoke(main.app, ["slurm", "script", "--pipeline", "r1"])
    for script in (*scripts, printed.output):
        assert "--stages 01_data,06_pipeline" in script
    assert len(scripts) == 2
