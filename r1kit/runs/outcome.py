"""Exit codes, and what the end of a training program means: one code and one paragraph.

`ExitCode` is the one list of codes for the command line, jobs and training programs. `accelerate launch`
turns every failure of its trainer into 1, so `classify` takes the trainer's own code from its exit.json, or
from the launcher's last lines in the log.
"""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path
from typing import Any


class ExitCode(IntEnum):
    """How a command, a job or a training ended; a job ended by another signal n has 128 + n."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    """Settings or arguments."""
    OUT_OF_MEMORY = 3
    HUNG = 4
    """A timeout, a process that died silently, or a server that is gone or does not answer."""
    UNEXPECTED = 5
    """Scores outside their expected range (`r1kit run --strict`)."""
    GUARD = 6
    """A guard ended the training (`r1kit.training.rl.guards`)."""
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


CODES_OF_REASONS = {
    "SIGINT": ExitCode.INTERRUPTED, "SIGTERM": ExitCode.TERMINATED, "SIGHUP": ExitCode.HANGUP,
    "owner died": ExitCode.TERMINATED, "supervisor killed": ExitCode.TERMINATED, "timeout": ExitCode.HUNG,
}  # fmt: skip
REASONS = {
    "timeout": "ran out of its time",
    "owner died": "was ended because the program that started it died",
    "supervisor killed": "was ended because its supervisor was killed",
}
ADVICE = {
    ExitCode.OUT_OF_MEMORY: "Lower the batch (per_device_train_batch_size, num_generations), the lengths, or "
    "use fewer processes.",
    ExitCode.HUNG: "Raise the time limit, or look in the log for the last step it reached.",
}

_MEMORY = re.compile(
    r"^\s*(?:\[rank\d+\]:\s*)?MemoryError\b|OutOfMemoryError|(?:CUDA|HIP|XPU)\w* out of memory|std::bad_alloc"
    r"|MPS backend out of memory|DefaultCPUAllocator: (?:can't|not enough)|Cannot allocate memory"
    r"|Unable to allocate .* for an array",
    re.MULTILINE,
)
_LAUNCHER = re.compile(
    r"returned non-zero exit status (\d+)\.|died with <Signals\.\w+: (\d+)>|^\s*exitcode\s*:\s*(-?\d+)",
    re.MULTILINE,
)
_LAUNCHER_TALK = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)*?subprocess\.CalledProcessError:.*\n?"
    r"|^The following values were not passed to `accelerate launch`.*\n(?:[ \t].*\n)*(?:To avoid .*\n)?",
    re.MULTILINE,
)
_ERROR_LINE = re.compile(
    r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt|Failed)(?::.*)?)$"
)
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_NOISE = re.compile(
    r"\b\d+%\|.*(?:it/s|s/it|\?it)"  # progress bars
    r"|\b(?:Future|Deprecation|User|Runtime)Warning:|^\s+warnings\.warn\("
    r"|^\[W\d+ .*\]|^W\d{4} .*torch/|oneDNN|Redirects are currently not supported"
)


def classify(
    returncode: int,
    ended_by: str | None,
    log: str,
    *,
    oom_kills: int = 0,
    reported: dict[str, Any] | None = None,
) -> tuple[int, str]:
    """Return the exit code of a job and one paragraph about it, which is empty when it is done.

    Args:
        returncode: of the process that was started; negative: the signal that ended it.
        ended_by: why the supervisor ended it, None if it ended by itself.
        log: the end of its output.
        oom_kills: how many processes the kernel killed for lack of memory meanwhile.
        reported: the trainer's exit.json, {"returncode", "message"}, if it wrote one.
    """
    if ended_by is not None:
        code = CODES_OF_REASONS[ended_by]
        reason = REASONS.get(ended_by, f"was ended by {ended_by}")
        return code, f"The training program {reason}. {ADVICE.get(code, '')}".strip()
    if returncode == 0:
        return ExitCode.DONE, ""
    reported = reported if reported and reported.get("returncode") else {}
    code = reported.get("returncode") or _trainer_code(returncode, log)
    cause = reported.get("message") or error_line(log)
    killed = code in (-9, 137)
    memory = not reported and code != ExitCode.BAD_INPUT and _MEMORY.search(log)
    if code == ExitCode.OUT_OF_MEMORY or memory or (killed and oom_kills):
        why = "the system killed it" if killed else cause or "see its log"
        advice = ADVICE[ExitCode.OUT_OF_MEMORY]
        return ExitCode.OUT_OF_MEMORY, f"The training program ran out of memory: {why}. {advice}"
    if code < 0:
        where = f"; the last error in its log: {cause}" if cause else ""
        return 128 - code, f"The training program was ended by signal {-code} from outside{where}."
    return code, f"The training program stopped with exit code {code}: {cause or 'see the end of its log'}"


def clean(text: str) -> str:
    """Remove colours, progress bars, library warnings and the launcher's traceback from a log."""
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n")]
    kept = [line for line in lines if not _NOISE.search(line)]
    return _LAUNCHER_TALK.sub("", "\n".join(kept)).strip("\n")


def read_tail(path: str | Path, *, offset: int = 0, limit: int = 65_536) -> str:
    """Return at most the last `limit` bytes of a log after byte `offset`, as text; "" if there is no log."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset if offset <= size else 0, size - limit))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def error_line(log: str) -> str:
    """Return the last line that names an exception, without the launcher's own; "" if there is none."""
    for line in reversed(clean(log).splitlines()):
        error = _ERROR_LINE.match(line.strip())
        if error and "ChildFailedError" not in line:
            return error[1]
    return ""


def _trainer_code(returncode: int, log: str) -> int:
    endings = list(_LAUNCHER.finditer(log)) if returncode == 1 else []
    if not endings:
        return returncode
    status, number, elastic = endings[-1].groups()
    return int(status) if status else -int(number) if number else int(elastic)
