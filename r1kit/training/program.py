"""What the three training programs share: their course, exit codes, quiet libraries, devices, determinism.

A training program is `python -m r1kit.training.<name> <job>/resolved.yaml`, started by hand, by `accelerate
launch` or by the supervisor. It writes only into the job folder, and says what ended it in the last line of
its output.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from r1kit.training.job import Job, read_job
from r1kit.training.processes import process_count
from r1kit.training.stop_request import StopRequest
from r1kit.training.watchdog import start_watchdog, write_exit_reason

DONE, FAILED, BAD_SETTINGS, OUT_OF_MEMORY = 0, 1, 2, 3
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
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SettingsError):
        return BAD_SETTINGS
    if isinstance(getattr(error, "returncode", None), int):
        return error.returncode  # watchdog.Stopped
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or (
        isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in MEMORY_PHRASES)
    ):
        return OUT_OF_MEMORY
    return FAILED


def explain_end(job: Job, code: int, error: BaseException) -> int:
    """Tell the other processes and the supervisor why this one ends; the exit code of the first cause.

    When one process of several dies, the others fail in their next collective with a message about sockets.
    """
    message = f"{type(error).__name__}: {error}"
    if code == FAILED and (first := job.watchdog.first_cause()):
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
        return BAD_SETTINGS
    stop = StopRequest()
    stop.install()
    job = None
    try:
        try:
            job = read_job(arguments[0])
        except (ValueError, OSError) as error:  # SettingsError is a ValueError
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return BAD_SETTINGS
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
        if code in (FAILED, OUT_OF_MEMORY):
            traceback.print_exc()
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return explain_end(job, code, error) if job and job.watchdog else code
    job.watchdog.close()
    if stop.received is not None:
        print(f"stopped by {signal.Signals(stop.received).name} after writing a checkpoint", flush=True)
        return 128 + stop.received
    return DONE
