"""`r1kit run --on slurm`: a run as a batch job, with a script that users can read, edit and submit.

`render` makes the script, `submit` gives it to sbatch, `follow` yields the job's output, `outcome` reads how
it ended, `cancel` ends it. The job executes `r1kit run --resume RUN` on its first node; a training with
`num_machines` above one uses several nodes (`r1kit.runs.nodes`). At the time limit the job saves a
checkpoint, returns to the queue and resumes. The cluster's own options come from a site file. Slurm's
accounting is not needed: the script writes the run's exit code into RUN/slurm/exit.json.
"""

from __future__ import annotations

import os
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path

from r1kit.runs import nodes
from r1kit.runs.files import read_json, write_text_atomic
from r1kit.runs.folder import Run, runs_folder
from r1kit.runs.outcome import ExitCode
from r1kit.serving.server import check_reachable
from r1kit.settings import Profile
from r1kit.settings.machine import Site

WARNING_SECONDS = 60  # before the limit, in addition to the grace: the kernel and Slurm need time too
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")
ACTIVE = ("RUNNING", "COMPLETING", "SUSPENDED")


class SlurmError(ValueError):
    """Slurm is not installed, or rejected a request."""

    exit_code = ExitCode.FAILED


class Template(string.Template):
    """A template with values as @{name}, because bash uses the dollar sign."""

    delimiter = "@"


def render(run: Run, settings: Profile, stages: list[str], site: Site, *, strict: bool = False) -> str:
    """Return the batch script of a run.

    Raises:
        SettingsError: the site has server nodes, but the profile's server cannot be reached from other nodes.
    """
    if site.server_nodes and settings.machine.server:
        check_reachable(settings.machine)
    trainers = nodes.machines(settings.accelerate)
    command = [sys.executable, "-m", "r1kit", "run", "--resume", run.run_id, "--stages", ",".join(stages)]
    options = {"partition": site.partition, "account": site.account, "gpus-per-node": site.gpus_per_node}
    options |= {"cpus-per-task": site.cpus_per_node} if site.cpus_per_node else {"exclusive": True}
    text = resources.files("r1kit.pipeline").joinpath("slurm.sbatch").read_text(encoding="utf-8")
    return Template(text).substitute(
        run_id=run.run_id,
        profile=settings.name,
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
        folder=shlex.quote(str(folder(run))),
        runs=shlex.quote(str(runs_folder())),
        nodes=trainers + site.server_nodes,
        trainers=trainers,
        servers=site.server_nodes,
        time=site.time,
        warning=round(settings.machine.grace_seconds) + WARNING_SECONDS,
        options="\n".join(
            directive(name, value) for name, value in {**options, **site.options}.items() if value
        ),
        setup="\n".join(site.setup) or ":",
        environment="\n".join(
            f"export {name}={shlex.quote(text)}" for name, text in site.environment.items()
        ),
        command=shlex.join([*command, *(["--strict"] if strict else [])]),
        requeues=site.requeues,
    )


def directive(name: str, value: object) -> str:
    """Return `#SBATCH --name=value`, or `#SBATCH --name` for a switch."""
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={value}"


def folder(run: Run) -> Path:
    """Return the folder of the job's script, output and exit code."""
    return run.path / "slurm"


def submit(run: Run, script: str) -> str:
    """Write the script into the run, submit it with sbatch, and return the job's number.

    Raises:
        SlurmError: there is no sbatch, the run is already in the queue, or Slurm rejected the job.
    """
    if shutil.which("sbatch") is None:
        raise SlurmError("there is no sbatch here: submit from a login node of the cluster")
    previous = run.manifest.get("slurm", {}).get("job")
    if previous and state(previous):
        raise SlurmError(f"run {run.run_id} is already in the queue, as job {previous}: r1kit slurm follow")
    path = folder(run) / "job.sbatch"
    write_text_atomic(path, script)
    (folder(run) / "exit.json").unlink(missing_ok=True)
    job = _slurm("sbatch", "--parsable", str(path)).partition(";")[0]
    run.update_manifest(slurm={"job": job})
    return job


def state(job: str) -> str:
    """Return PENDING, RUNNING, …; empty if the job is no longer in Slurm's queue."""
    try:
        answer = _slurm("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T")
    except SlurmError as error:
        if "Invalid job id" in str(error):  # it left the controller's memory (MinJobAge)
            return ""
        raise
    return answer if answer in WAITING + ACTIVE else ""


def follow(run: Run, seconds: float = 2.0) -> Iterator[str]:
    """Yield lines to print while the job waits and runs: its states, and its output."""
    job = job_of(run)
    log, printed, previous = folder(run) / "job.log", 0, ""
    while True:
        now = state(job)
        if now != previous and now:
            yield f"job {job}: {now.lower()} {reason(job)}".rstrip()
        previous = now
        text = log.read_text(encoding="utf-8", errors="replace")[printed:] if log.exists() else ""
        whole = text[: text.rfind("\n") + 1] if now else text
        printed += len(whole)
        yield from whole.splitlines()
        if not now:
            return
        time.sleep(seconds)


def reason(job: str) -> str:
    """Return why the job waits, "(Resources)", or on which nodes it runs, "n[1-2]"."""
    try:
        return _slurm("squeue", "--noheader", f"--jobs={job}", "--format=%R")
    except SlurmError:  # it has just left the queue
        return ""


def outcome(run: Run) -> tuple[int, str]:
    """Return (exit code, reason) of a run with a job that has left the queue."""
    ended = read_json(folder(run) / "exit.json", {})
    if "returncode" in ended:
        return ended["returncode"], ""
    job = job_of(run)
    return (
        ExitCode.FAILED,
        f"job {job} ended without an exit code: a node failed, or Slurm killed it (scontrol show job {job})",
    )


def cancel(run: Run, grace: float) -> str:
    """End a run's job, a running one with a checkpoint; return what was done.

    A running job's script gets SIGTERM first: a plain scancel would leave only Slurm's KillWait, often 30 s,
    for the checkpoint. After the grace the job is cancelled.
    """
    job = job_of(run)
    now = state(job)
    if not now:
        return f"job {job} is not in the queue"
    if now == "RUNNING":
        _slurm("scancel", "--signal=TERM", "--batch", job)
        deadline = time.monotonic() + grace + WARNING_SECONDS
        while state(job) in ACTIVE and time.monotonic() < deadline:
            time.sleep(0.5)
        if state(job) not in ACTIVE and (folder(run) / "exit.json").exists():
            return f"job {job} was asked to save and has ended"
    _slurm("scancel", job)
    return f"job {job} is cancelled"


def job_of(run: Run) -> str:
    """Return the run's newest job.

    Raises:
        SlurmError: the run was never submitted.
    """
    job = run.manifest.get("slurm", {}).get("job")
    if not job:
        raise SlurmError(f"run {run.run_id} was never submitted to Slurm: r1kit run --on slurm")
    return job


def _slurm(*command: str) -> str:
    # Inside another job, sbatch would inherit that job's settings from these variables.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SLURM_JOB")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
