"""What the end of a training program means: one exit code and one paragraph, from status, signals and log.

Exit codes as on the command line: 0 done, 1 failed, 2 bad settings, 3 out of memory, 4 timeout, 6 ended by
a guard, and 129, 130, 143 for hung up, interrupted, terminated. `accelerate launch` turns every failure of
its trainer into 1; the trainer's own code is in its exit.json, or in what the launcher prints last.
"""

from __future__ import annotations

import re
from pathlib import Path

ENDED_BY = {
    "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "owner died": 143, "supervisor killed": 143, "timeout": 4,
}  # fmt: skip
REASONS = {
    "timeout": "ran out of its time",
    "owner died": "was ended because the program that started it died",
    "supervisor killed": "was ended because its supervisor was killed",
}
ADVICE = {
    3: "Lower the batch (per_device_train_batch_size, num_generations), the lengths, or use fewer processes.",
    4: "Raise the time limit, or look in the log for the last step it reached.",
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
    returncode: int, ended_by: str | None, log: str, *, oom_kills: int = 0, stated: dict | None = None
) -> tuple[int, str]:
    """(exit code, one paragraph) of a job; the paragraph is empty when it is done.

    Args:
        returncode: of the process that was started; negative: the signal that ended it.
        ended_by: why the supervisor ended it, None if it ended by itself.
        log: the end of what it printed.
        oom_kills: how many processes the kernel killed for lack of memory meanwhile.
        stated: the trainer's exit.json, {"returncode", "message"}, if it wrote one.
    """
    if ended_by is not None:
        code = ENDED_BY.get(ended_by, 1)
        reason = REASONS.get(ended_by, f"was ended by {ended_by}")
        return code, f"The training program {reason}. {ADVICE.get(code, '')}".strip()
    if returncode == 0:
        return 0, ""
    stated = stated if stated and stated.get("returncode") else {}
    code = stated.get("returncode") or _trainer_code(returncode, log)
    cause = stated.get("message") or error_line(log)
    killed = code in (-9, 137)
    memory = not stated and code != 2 and _MEMORY.search(log)
    if code == 3 or memory or (killed and oom_kills):
        why = "the system killed it" if killed else cause or "see its log"
        return 3, f"The training program ran out of memory: {why}. {ADVICE[3]}"
    if code < 0:
        where = f"; the last error in its log: {cause}" if cause else ""
        return 128 - code, f"The training program was ended by signal {-code} from outside{where}."
    return code, f"The training program stopped with exit code {code}: {cause or 'see the end of its log'}"


def clean(text: str) -> str:
    """A log as a person wants it: no colours, progress bars, library warnings, launcher's traceback."""
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n")]
    kept = [line for line in lines if not _NOISE.search(line)]
    return _LAUNCHER_TALK.sub("", "\n".join(kept)).strip("\n")


def read_tail(path: str | Path, *, offset: int = 0, limit: int = 65_536) -> str:
    """At most the last `limit` bytes of a log from byte `offset` on, as text; empty if there is no log."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset if offset <= size else 0, size - limit))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def error_line(log: str) -> str:
    """The last line that names an exception, without the launcher's own; empty if there is none."""
    for line in reversed(clean(log).splitlines()):
        found = _ERROR_LINE.match(line.strip())
        if found and "ChildFailedError" not in line:
            return found[1]
    return ""


def _trainer_code(returncode: int, log: str) -> int:
    found = list(_LAUNCHER.finditer(log)) if returncode == 1 else []
    if not found:
        return returncode
    status, number, elastic = found[-1].groups()
    return int(status) if status else -int(number) if number else int(elastic)
