"""The frame of every training and evaluation program: from resolved.yaml to an exit code.

A program is `python -m r1kit.training.<name> JOB/resolved.yaml`, started by hand, by `accelerate launch` or
by the supervisor. `run` reads the job, prepares the environment and torch, starts the watchdog, calls the
program's `train(job)` and turns its end into an exit code: 0 done, 1 failed, 2 bad settings, 3 out of memory,
the error's `returncode` if it has one (see `watchdog.Stopped`), 128 + n after signal n.

A program writes only into the job folder, and the last line of its output names the cause of its end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs.outcome import ExitCode
from r1kit.training.checkpoints import process_count
from r1kit.training.watchdog import Watchdog, start_watchdog, write_exit_reason

MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc")
"""Parts of the message when an allocator fails with a plain RuntimeError, as torch's CPU allocator does."""
REPEATED_SIGNAL_SECONDS = 5.0
"""A second SIGTERM within this time is the first one again, passed on by `accelerate launch`."""


def run(train: Callable[[Job], None], arguments: list[str] | None = None) -> int:
    """Read the job named on the command line, call `train(job)`, and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m r1kit.training.<pretrain|sft|grpo> JOB/resolved.yaml", file=sys.stderr)
        return ExitCode.BAD_INPUT
    stop = StopRequest()
    stop.install()
    job = None
    try:
        try:
            job = read_job(arguments[0])
        except (ValueError, OSError) as error:  # SettingsError is a ValueError
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return ExitCode.BAD_INPUT
        job.stop = stop
        prepare_environment(job)
        job.device, reason = resolve_device(job.machine.get("device", "auto"))
        if is_main():
            print(f"device: {job.device} ({reason})", flush=True)
        prepare_torch(job)
        job.watchdog = start_watchdog(job.folder, job.machine.get("step_seconds"))
        train(job)
    except BaseException as error:
        code = exit_code_of(error)
        if code in (ExitCode.FAILED, ExitCode.OUT_OF_MEMORY):
            traceback.print_exc()
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return explain_end(job, code, error) if job and job.watchdog else code
    job.watchdog.close()
    if stop.received is not None:
        print(f"stopped by {signal.Signals(stop.received).name} after writing a checkpoint", flush=True)
        return 128 + stop.received
    return ExitCode.DONE


@dataclass
class StopRequest:
    """Remembers the first SIGTERM or SIGINT; the training loop checks `received` after every step.

    Before and after the loop (`in_loop` False) a signal ends the program at once, since there is nothing to
    save. A second signal always does, unless it is the first one again: torchrun's agent inside `accelerate
    launch` passes on a signal that its processes have already received. `received` may also be set because
    another process of the training got a signal; this process's own signal, a moment later, is its first.
    """

    received: int | None = None
    in_loop: bool = False
    signals: int = 0
    first_signal: float = 0.0  # time.monotonic()

    def install(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.signals and number == signal.SIGTERM and now - self.first_signal < REPEATED_SIGNAL_SECONDS:
            return
        self.signals += 1
        if self.signals > 1:
            os._exit(128 + number)
        self.first_signal = now
        if self.received is not None:
            return
        self.received = number
        if not self.in_loop:
            raise SystemExit(128 + number)
        print(f"{signal.Signals(number).name}: finishing this step, then saving a checkpoint", flush=True)


@dataclass
class Job:
    """One program's work: its folder and the content of `resolved.yaml`, with absolute paths."""

    folder: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    device: str = "cpu"
    started: float = field(default_factory=time.time)
    stop: StopRequest = field(default_factory=StopRequest)
    watchdog: Watchdog | None = None

    @property
    def machine(self) -> dict[str, Any]:
        """The values of machine.yaml."""
        return self.settings.get("machine", {})

    @property
    def checkpoints(self) -> Path:
        """Folder of `checkpoint-N` folders."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The append-only metrics file."""
        return self.folder / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of `step_%05d.parquet`."""
        return self.folder / "rollouts"

    @property
    def model(self) -> Path:
        """Folder of the final weights; it exists only when they are complete."""
        return self.folder / "model"

    def section(self, name: str) -> Any:
        """Return one file's typed settings; `.trl` and `.model` hold the trainer's and ModelConfig's keys.

        Raises:
            SettingsError: resolved.yaml was edited and a key or value is wrong.
        """
        from r1kit.settings import resolved_section

        return resolved_section(name, self.settings[name])


def read_job(path: str | Path) -> Job:
    """Read `resolved.yaml`; inputs that exist become absolute paths, others are ids of the Hugging Face Hub.

    Raises:
        ValueError: the file is not a mapping with `inputs`.
        FileNotFoundError: the file or an input given as a path does not exist.
    """
    from r1kit.settings import yaml_load

    path = Path(path).resolve()
    settings = yaml_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("inputs"), dict):
        raise ValueError(f"{path}: not a resolved settings file (a mapping with `inputs`)")
    inputs = {}
    for name, value in settings["inputs"].items():
        local = path.parent / value
        if not local.exists() and (value.startswith(".") or os.path.isabs(value)):
            raise FileNotFoundError(f"{path}: inputs.{name} is {value}, but {local} does not exist")
        inputs[name] = str(local.resolve()) if local.exists() else value
    return Job(folder=path.parent, settings=settings, inputs=inputs)


# Preparation: variables that libraries read when they are imported, then torch.


def prepare_environment(job: Job) -> None:
    """Set variables for quiet libraries, no telemetry, and no network if all inputs are local."""
    quiet = {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if all(os.path.exists(value) for value in job.inputs.values()):
        quiet["HF_HUB_OFFLINE"] = "1"
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


def resolve_device(requested: str) -> tuple[str, str]:
    """Return the kind of device ("cpu", "cuda") for machine.yaml's `device`, and the reason."""
    if requested != "auto":
        return requested, "machine.yaml asks for it"
    from r1kit.machine import detect_device

    device, reason = detect_device()
    return str(device).split(":")[0], reason


def prepare_torch(job: Job) -> None:
    """Set the number of threads from OMP_NUM_THREADS, and determinism on a CPU, where it costs nothing.

    Raises:
        SettingsError: machine.yaml asks for a GPU and torch sees none.
    """
    import torch

    from r1kit.settings import Problem, SettingsError

    if job.device == "cuda" and not torch.cuda.is_available():
        message = "No GPU is visible to torch."
        raise SettingsError([Problem("machine.yaml", "device", "cuda", "cpu, auto", message=message)])
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if job.device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling every new tensor with NaN is the one part of determinism that costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False
        if process_count() > 1:
            # Trainer then loads optimizers onto "cpu:0", a name torch.load doesn't know (5.17, 2.13).
            torch.serialization.register_package(
                5, lambda storage: None, lambda storage, name: storage if name.startswith("cpu:") else None
            )


def is_main() -> bool:
    """Return whether this process prints and writes files (torchrun numbers processes in RANK)."""
    return os.environ.get("RANK", "0") == "0"


# The end


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an exception that ended a program."""
    from r1kit.settings import SettingsError

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, SettingsError):
        return ExitCode.BAD_INPUT
    if isinstance(getattr(error, "returncode", None), int):
        return error.returncode  # watchdog.Stopped
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ExitCode.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in MEMORY_PHRASES):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.FAILED


def explain_end(job: Job, code: int, error: BaseException) -> int:
    """Record why this process ends, for its siblings and the supervisor; return the first cause's code.

    When one process of several dies, the others fail in their next collective with a message about sockets.
    """
    message = f"{type(error).__name__}: {error}"
    if code == ExitCode.FAILED and (first := job.watchdog.first_cause()):
        code, message = first
        print(message, file=sys.stderr, flush=True)
        write_exit_reason(job.folder, code, message)
    elif hasattr(error, "returncode"):
        message = str(error)
        write_exit_reason(job.folder, code, message)
    job.watchdog.close(code, message)
    return code
