"""Starting a training program from a notebook cell, as a supervised process with its own life and end.

`launch` returns at once with a `Job`; `await job.finished()` (or `job.wait()`) waits. The Stop button, Ctrl-C
and a dead kernel end the job and everything it started; with `detach=True` it outlives them, and `attach`
finds it again.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from r1kit.runs import nodes, outcome, status

MARGIN = 15.0  # seconds the supervisor may need beyond the grace: killing and reaping


class JobFailed(RuntimeError):
    """A job that did not end with 0.

    Its text begins with `[exit code N]`: text is all that a notebook's kernel passes on of an exception, and
    `exit_code_in` reads it there.

    Attributes:
        returncode: 1 failed, 2 bad settings, 3 out of memory, 4 timeout, 6 a guard, 129 / 130 / 143 a signal.
        message: one paragraph for people.
        log_tail: the end of train.log, cleaned.
    """

    def __init__(self, returncode: int, message: str, log_tail: str = "") -> None:
        text = f"[exit code {returncode}] {message}"
        super().__init__(f"{text}\n\n{log_tail}" if log_tail else text)
        self.returncode, self.message, self.log_tail = returncode, message, log_tail

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the reason lies in the job, so the cell shows no traceback of ours."""
        return f"JobFailed: {self}".splitlines()


def exit_code_in(text: str) -> int:
    """Return the exit code in the text of a `JobFailed`, 1 for any other text."""
    found = re.match(r"\[exit code (\d+)\] ", text)
    return int(found[1]) if found else 1


@dataclass
class Job:
    """A supervised process; all its traces are files in `folder`."""

    folder: Path
    module: str
    grace: float = 20.0
    detached: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log_offset: int = 0
    after: Callable[[], None] | None = field(default=None, repr=False)
    """Called once, by whoever waits, when the job has ended well."""

    def poll(self) -> int | None:
        """The exit code (see `JobFailed`), or None while the job runs."""
        code = self.process.poll() if self.process else None
        if self.process and (code is None or code >= 0):
            return code
        found = status.read(self.folder)
        job = found.get("job") or {}
        if job.get("returncode") is not None:
            return job["returncode"]
        if self.process is None:
            return None if job.get("state") == "running" else 143
        # The guard was killed; the worker is ending the tree and will write the end of it.
        return None if time.time() - found.get("updated", 0.0) < self.grace + MARGIN else 143

    def wait(self) -> None:
        """Block until the job is done. A KeyboardInterrupt ends the job (not a detached one) and is raised
        again.

        Raises:
            JobFailed: it did not end with 0.
        """
        try:
            while self.poll() is None:
                time.sleep(0.1)
        except BaseException:
            if not self.detached:
                self.stop()
            raise
        self._check()

    async def finished(self) -> None:
        """As `wait`, for notebooks: the event loop goes on, so widgets live. To cancel is to interrupt."""
        try:
            while self.poll() is None:
                await asyncio.sleep(0.2)
        except BaseException:
            if not self.detached:
                self.stop()
            raise
        self._check()

    def stop(self) -> int | None:
        """End the job, wait until all of it is gone (grace + some seconds), and return the exit code.

        If the waiting is interrupted, the supervisor finishes without us.
        """
        pid = self.process.pid if self.process else (status.read(self.folder).get("job") or {}).get("pid")
        if self.poll() is None and pid:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                return self.poll()
        deadline = time.monotonic() + self.grace + MARGIN
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.poll()

    def log_tail(self, n: int = 20) -> str:
        """The last `n` lines of this job's output, cleaned of what helps nobody (see `outcome.clean`)."""
        text = outcome.read_tail(self.folder / "train.log", offset=self.log_offset)
        return "\n".join(outcome.clean(text).splitlines()[-n:])

    def _check(self) -> None:
        code = self.poll()
        if code == 0:
            after, self.after = self.after, None
            if after is not None:
                after()
            return
        job = status.read(self.folder).get("job") or {}
        message = job.get("message") or f"The training program ended with exit code {code}"
        message = message.replace("The training program", self.module, 1).rstrip(".")
        raise JobFailed(code or 1, f"{message}. Its log: {self.folder / 'train.log'}", self.log_tail())


def launch(
    module: str,
    job_folder: str | Path,
    *,
    environment: Mapping[str, str | None] | None = None,
    grace: float = 20.0,
    timeout: float | None = None,
    accelerate: bool = True,
    detach: bool = False,
    serving: bool = False,
) -> Job:
    """Start `module` on the job folder's resolved.yaml under the supervisor and return at once.

    Args:
        module: "r1kit.training.sft"; it gets the path of resolved.yaml as its one argument.
        job_folder: holds resolved.yaml, and accelerate.yaml if `accelerate`.
        environment: variables on top of this process's; None as value removes one.
        grace: seconds from SIGTERM to SIGKILL, time to write a checkpoint.
        timeout: seconds after which the job is ended (exit code 4).
        accelerate: start through `accelerate launch` (on several nodes as `nodes` says), else directly.
        detach: the job goes on when this process dies.
        serving: it is a server: in a Slurm job that has nodes for servers it runs on the first of those.

    Raises:
        FileNotFoundError: resolved.yaml or accelerate.yaml is missing.
        NoNodes: accelerate.yaml asks for more nodes than this job has.
    """
    folder = Path(job_folder).resolve()
    needed = [folder / "resolved.yaml", *([folder / "accelerate.yaml"] if accelerate else [])]
    for path in needed:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; a job folder holds it before the job is started")
    program = ["-m", module, str(folder / "resolved.yaml")]
    command, depth = [sys.executable, *program], 1
    if accelerate:
        config = folder / "accelerate.yaml"
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        if nodes.machines(settings) > 1:
            command, rendezvous = nodes.training_step(module, folder, settings, grace)
            environment = {**(environment or {}), **rendezvous}
        else:
            launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
            command, depth = [sys.executable, *launcher, *program], 2
    elif serving:
        command = nodes.serving_step(command, folder, grace)
    return supervise(
        command,
        folder,
        name=module,
        environment=environment,
        grace=grace,
        timeout=timeout,
        detach=detach,
        depth=depth,
    )


def supervise(
    command: list[str],
    folder: Path,
    *,
    name: str,
    environment: Mapping[str, str | None] | None = None,
    grace: float = 20.0,
    timeout: float | None = None,
    detach: bool = False,
    depth: int = 1,
) -> Job:
    """Start any command under the supervisor; its output goes to `folder`/train.log, its end to status.json.

    `depth` says which process of the tree does the work, and gets the signals: 2 for a child of `command`.
    """
    limits = ["--grace", str(grace), *(["--timeout", str(timeout)] if timeout else [])]
    supervisor = [
        *(sys.executable, "-m", "r1kit.runs.supervise", "--folder", str(folder), *limits),
        *("--owner", str(0 if detach else os.getpid()), "--depth", str(depth)),
        *("--", *command),
    ]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    # DeepSpeed asks for ninja by its bare name; it lies beside the Python of an environment nobody activated.
    programs = str(Path(sys.executable).parent)
    if programs not in (path := variables.get("PATH") or os.defpath).split(os.pathsep):
        variables["PATH"] = programs + os.pathsep + path
    # Operators that torch compiles belong to one environment: in the home folder, torch's default, two
    # environments would each compile over the other's.
    if (compiled := Path(sys.prefix) / "torch_extensions").is_dir():
        variables.setdefault("TORCH_EXTENSIONS_DIR", str(compiled))
    log = folder / "train.log"
    offset = log.stat().st_size if log.exists() else 0
    process = subprocess.Popen(
        supervisor,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={key: str(value) for key, value in variables.items() if value is not None},
        start_new_session=True,
    )
    return Job(folder, name, grace, detach, process, offset)


def attach(job_folder: str | Path, *, grace: float = 20.0) -> Job:
    """The job that runs, or ran, in a folder, from its files alone: after a kernel restart, or from
    elsewhere.

    Waiting for it can be interrupted without ending it.

    Raises:
        FileNotFoundError: no job was ever started there.
    """
    folder = Path(job_folder).resolve()
    job = status.read(folder).get("job")
    if not job:
        raise FileNotFoundError(f"no job was started in {folder}")
    module = next(
        (part for part in job["command"] if part.startswith(("r1kit.training.", "r1kit.evaluation."))),
        job["command"][0],
    )
    return Job(folder, module, grace, True, None, job.get("log_offset", 0))
