"""Start a program from a notebook cell as a supervised job, wait for it, stop it, find it again.

`launch` starts a training program and returns at once with a `Job`; `await job.finished()` (or `job.wait()`)
waits. `supervise` does the same for any command. The Stop button, Ctrl-C and a dead kernel end the job and
all its processes: SIGTERM to `r1kit.runs.supervise`, which passes it to the trainer and waits `grace` seconds
for its checkpoint. With `detach=True` the job survives them, and `attach` finds it again.
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
from r1kit.runs.outcome import ExitCode

MARGIN_SECONDS = 15.0  # beyond the grace, for the supervisor to kill and reap


class JobFailed(RuntimeError):
    """A job that did not end with 0.

    Its text begins with `[exit code N]`: text is all that a notebook's kernel passes on of an exception, and
    `exit_code_in` reads it there.

    Attributes:
        returncode: an `ExitCode`, or 128 + n for another signal n.
        message: one paragraph for the user.
        log_tail: the end of train.log, cleaned.
    """

    def __init__(self, returncode: int, message: str, log_tail: str = "") -> None:
        text = f"[exit code {returncode}] {message}"
        super().__init__(f"{text}\n\n{log_tail}" if log_tail else text)
        self.returncode, self.message, self.log_tail = returncode, message, log_tail

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the reason is in the job, so the cell shows no traceback of this package."""
        return f"JobFailed: {self}".splitlines()


def exit_code_in(text: str) -> int:
    """Return the exit code in the text of a `JobFailed`, FAILED for any other text."""
    match = re.match(r"\[exit code (\d+)\] ", text)
    return int(match[1]) if match else ExitCode.FAILED


@dataclass
class Job:
    """A supervised process; all its traces are files in `folder`.

    Attributes:
        module: the program's name, for messages.
        grace: seconds from SIGTERM to SIGKILL.
        detached: an interrupted wait does not end the job.
        process: the supervisor, None if another process started it.
        log_offset: where this job's output begins in train.log.
        after: called once when a wait sees that the job has ended with 0.
    """

    folder: Path
    module: str
    grace: float = 20.0
    detached: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log_offset: int = 0
    after: Callable[[], None] | None = field(default=None, repr=False)

    def poll(self) -> int | None:
        """Return the exit code (see `JobFailed`), or None while the job runs."""
        code = self.process.poll() if self.process else None
        if self.process and (code is None or code >= 0):
            return code
        state = status.read(self.folder)
        job = state.get("job") or {}
        if job.get("returncode") is not None:
            return job["returncode"]
        if self.process is None:
            return None if job.get("state") == "running" else ExitCode.TERMINATED
        # The guard was killed; the worker is ending the tree and will then write the exit code.
        waiting = time.time() - state.get("updated", 0.0) < self.grace + MARGIN_SECONDS
        return None if waiting else ExitCode.TERMINATED

    def wait(self) -> None:
        """Block until the job is done. A KeyboardInterrupt ends the job (unless detached) and is re-raised.

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
        """Wait as `wait` does, with the event loop free for a notebook's widgets; cancelling interrupts."""
        try:
            while self.poll() is None:
                await asyncio.sleep(0.2)
        except BaseException:
            if not self.detached:
                self.stop()
            raise
        self._check()

    def stop(self) -> int | None:
        """End the job, wait until all its processes are gone (grace + some seconds), return the exit code.

        If this wait is interrupted, the supervisor finishes by itself.
        """
        pid = self.process.pid if self.process else (status.read(self.folder).get("job") or {}).get("pid")
        if self.poll() is None and pid:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                return self.poll()
        deadline = time.monotonic() + self.grace + MARGIN_SECONDS
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.poll()

    def log_tail(self, n: int = 20) -> str:
        """Return the last `n` lines of this job's output, without noise (see `outcome.clean`)."""
        text = outcome.read_tail(self.folder / "train.log", offset=self.log_offset)
        return "\n".join(outcome.clean(text).splitlines()[-n:])

    def _check(self) -> None:
        code = self.poll()
        if code == ExitCode.DONE:
            after, self.after = self.after, None
            if after is not None:
                after()
            return
        job = status.read(self.folder).get("job") or {}
        message = job.get("message") or f"The training program ended with exit code {code}"
        message = message.replace("The training program", self.module, 1).rstrip(".")
        log = self.folder / "train.log"
        raise JobFailed(code or ExitCode.FAILED, f"{message}. Its log: {log}", self.log_tail())


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
        module: "r1kit.training.sft"; its one argument is the path of resolved.yaml.
        job_folder: holds resolved.yaml, and accelerate.yaml if `accelerate`.
        environment: variables on top of this process's; None as value removes one.
        grace: seconds from SIGTERM to SIGKILL, time to write a checkpoint.
        timeout: seconds after which the job is ended (exit code HUNG).
        accelerate: start through `accelerate launch` (on several nodes through `nodes`), else directly.
        detach: the job continues when this process dies.
        serving: it is a server: in a Slurm job that has nodes for servers it runs on the first of those.

    Raises:
        FileNotFoundError: resolved.yaml or accelerate.yaml is missing.
        NoNodes: accelerate.yaml asks for more nodes than this job has.
    """
    folder = Path(job_folder).resolve()
    resolved, config = folder / "resolved.yaml", folder / "accelerate.yaml"
    for path in (resolved, config) if accelerate else (resolved,):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; write it before the job is started")
    program = ["-m", module, str(resolved)]
    command, depth = [sys.executable, *program], 1
    if accelerate:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        if nodes.machines(settings) > 1:
            command, rendezvous = nodes.training_step(module, folder, settings, grace)
            environment = {**(environment or {}), **rendezvous}
        else:
            launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
            command, depth = [sys.executable, *launcher, *program], 2
    elif serving:
        command = nodes.serving_step(command, folder, grace)
    limits = {"grace": grace, "timeout": timeout, "detach": detach, "depth": depth}
    return supervise(command, folder, name=module, environment=environment, **limits)


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
    """Start any command under the supervisor; output goes to `folder`/train.log, the end to status.json.

    `depth` is the generation of processes that gets the signals: 2 for a child of `command`.
    """
    supervisor = [
        *(sys.executable, "-m", "r1kit.runs.supervise", "--folder", str(folder), "--grace", str(grace)),
        *(["--timeout", str(timeout)] if timeout else []),
        *("--owner", str(0 if detach else os.getpid()), "--depth", str(depth)),
        *("--", *command),
    ]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    # DeepSpeed runs `ninja`, which is beside this Python also if its environment was not activated.
    programs = str(Path(sys.executable).parent)
    if programs not in (path := variables.get("PATH") or os.defpath).split(os.pathsep):
        variables["PATH"] = programs + os.pathsep + path
    # Operators that torch compiles belong to one environment: in the home folder, torch's default, two
    # environments would each overwrite the other's.
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


def attach(job_folder: str | Path) -> Job:
    """Return the job that runs, or ran, in a folder, from its files: after a kernel restart, for example.

    Interrupting a wait for it does not end it.

    Raises:
        FileNotFoundError: no job was ever started there.
    """
    folder = Path(job_folder).resolve()
    job = status.read(folder).get("job")
    if not job:
        raise FileNotFoundError(f"no job was started in {folder}")
    programs = (part for part in job["command"] if part.startswith(("r1kit.training.", "r1kit.evaluation.")))
    module = next(programs, job["command"][0])
    return Job(folder, module, detached=True, log_offset=job.get("log_offset", 0))
