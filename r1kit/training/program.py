"""What the three training programs share: their course, exit codes, quiet libraries, devices, determinism.

A training program is `python -m r1kit.training.<name> <job>/resolved.yaml`, started by hand, by `accelerate
launch` or by the supervisor. It writes only into the job folder, and says what ended it in the last line of
its output.

A training asked to stop: one signal lets the step end and a checkpoint be written, a second does not.

What a training program is given: `resolved.yaml` and its folder, where everything is written.
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

ECHO_SECONDS = 5.0  # in which a second SIGTERM is taken for the first


@dataclass
class StopRequest:
    """Remembers the first SIGTERM or SIGINT; the training loop asks for it after every step.

    Before and after the loop (`in_loop` False) a signal ends the program at once: there is nothing to save.
    So does a second signal, whatever the program is doing, unless it comes right behind the first: torchrun's
    agent, which is inside `accelerate launch`, passes on to its processes what they have already heard.
    `received` may also come from another process of the training; this one's own signal, a moment later, is
    then its first.
    """

    received: int | None = None
    heard: float = 0.0
    in_loop: bool = False
    signals: int = 0

    def install(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.signals and number == signal.SIGTERM and now - self.heard < ECHO_SECONDS:
            return
        self.signals += 1
        if self.signals > 1:
            os._exit(128 + number)
        self.heard = now
        if self.received is not None:
            return
        self.received = number
        if not self.in_loop:
            raise SystemExit(128 + number)
        print(f"{signal.Signals(number).name}: finishing this step, then saving a checkpoint", flush=True)


@dataclass
class Job:
    """One training to do: its folder and the content of `resolved.yaml`, paths made absolute."""

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

    def section(self, name: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """A settings file in three parts: the trainer's keys, ModelConfig's keys, our own (typed)."""
        from r1kit.settings import resolved_section

        own = resolved_section(name, self.settings[name])
        return own.trl, own.model, own


def read_job(path: str | Path) -> Job:
    """The job of a `resolved.yaml`; inputs that exist become absolute paths, others are hub ids.

    Raises ValueError if the file is no mapping with `inputs`, FileNotFoundError if it or a relative input is
    missing.
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


# What allocators say when they fail through a plain RuntimeError (torch's CPU allocator does).
MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc")


def prepare_environment(job: Job) -> None:
    """Quiet libraries, no telemetry, offline if all inputs are local: variables they read when imported."""
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
    """Device kind ("cpu", "cuda") and the reason, from machine.yaml's `device`."""
    if requested != "auto":
        return requested, "machine.yaml asks for it"
    from r1kit.machine import detect_device

    device, reason = detect_device()
    return str(device).split(":")[0], reason


def prepare_torch(job: Job) -> None:
    """Threads from OMP_NUM_THREADS, and the same numbers every time where that costs nothing (on a CPU)."""
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
    """Whether this is the process that prints and writes files (torchrun numbers them in RANK)."""
    return os.environ.get("RANK", "0") == "0"


def exit_code_of(error: BaseException) -> int:
    """The contract's exit code for an exception that ended a training."""
    from r1kit.settings import SettingsError

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, SettingsError):
        return ExitCode.BAD_INPUT
    if isinstance(getattr(error, "returncode", None), int):
        return error.returncode  # watchdog.Stopped
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or (
        isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in MEMORY_PHRASES)
    ):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.FAILED


def explain_end(job: Job, code: int, error: BaseException) -> int:
    """Tell the other processes and the supervisor why this one ends; the exit code of the first cause.

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
