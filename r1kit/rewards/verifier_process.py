r"""The process that holds math-verify. `verifier.py` runs this file; r1kit does not import it.

It reads one request `[gold, answer]` per line and answers with bytes: `n` if the gold cannot be understood,
else `g`, followed by `1` (equal) or `0` (not). The parent that kills it for hanging thus knows which of the
two texts it hung on. It ends when its input closes.

Its limits are in CPU time. math-verify's own alarms count wall time, so a host busy with a training turned
right answers into wrong ones. A timer's signal ends a step written in Python; inside C code (a power of
powers) no signal handler runs, and there the kernel's limit ends the process.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from functools import lru_cache
from pathlib import Path

STEP_SECONDS = 2.0  # CPU time of one parse or one comparison
REQUEST_SECONDS = 8  # CPU time of a whole request
MEMORY_BYTES = 2 * 1024**3

FAMILIAR = (
    r"\frac{x+1}{x-1}",
    r"3\sin 2x",
    r"\log_{2} 6",
    r"\frac{\ln 2}{\ln 3}",
    r"2^{1/3}",
    r"\sqrt[3]{5}",
)
"""Parsed at the start, because the parser takes up to 0.3 s for the first expression of a kind."""


class OutOfTime(BaseException):
    """Not an Exception, since math-verify catches those and continues with its next method."""


@lru_cache(maxsize=256)
def parsed(text: str) -> list:
    """Parse text with math-verify; empty if it finds nothing but the bare string."""
    from math_verify import parse

    found = within_time(parse, rf"\boxed{{{text}}}", parsing_timeout=None)
    return found if any(not isinstance(part, str) for part in found) else []


@lru_cache(maxsize=256)
def understood(text: str) -> bool:
    """Check that text can be parsed and its value computed in time."""
    try:
        found = parsed(unmistakable(text))
        if found:
            within_time(value, found[0])
        return bool(found)
    except (Exception, OutOfTime):  # any error of math-verify
        return False


@lru_cache(maxsize=4096)
def ask(gold: str, answer: str) -> bool:
    """Compare gold and answer with math-verify."""
    from math_verify import verify

    one, other = parsed(unmistakable(gold)), parsed(unmistakable(answer))
    if not one or not other or within_time(clearly_different, one[0], other[0]):
        return False
    return within_time(verify, one, other, allow_set_relation_comp=True, timeout_seconds=None)


def clearly_different(one: object, other: object) -> bool:
    r"""Check whether two expressions differ in value when their letters are replaced by numbers.

    It saves time: math-verify would simplify the difference, 0.3 s for `\sin 8x` and `\cos 8x`, measured on
    two cores on 2026-11-24; here milliseconds.
    """
    values = [value(one), value(other)]
    if None in values:
        return False
    scale = max(1.0, *map(abs, values))
    return abs(values[0] - values[1]) > 1e-4 * scale  # math-verify rounds to six decimals


def value(expression: object) -> complex | None:
    """Compute the value with a number for each letter; None for anything without a value."""
    from zlib import crc32

    from sympy import Expr, Float, Symbol

    if not isinstance(expression, Expr) or isinstance(expression, Symbol):
        return None
    # A letter gets the same number on both sides, independently of the other letters.
    numbers = {letter: crc32(str(letter).encode()) % 10**6 / 10**6 for letter in expression.free_symbols}
    point = {letter: Float(0.3 + number) for letter, number in numbers.items()}
    try:
        found = complex(expression.evalf(15, subs=point))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return found if abs(found) < 1e300 else None


def unmistakable(text: str) -> str:
    """Put a last letter in brackets, or math-verify drops it as a unit: `2 \\sin 5t` equalled `2 \\sin 5`."""
    lone = re.search(r"(?<![A-Za-z\\])[A-Za-z]{1,2}$", text) and not re.search(
        r"[,=<>]|\\(?:in|le|ge|ne|text)", text
    )
    return f"({text})" if lone else text


def within_time(function, *arguments, **options):
    """Call function; raise OutOfTime after STEP_SECONDS of CPU time, repeatedly in case it is caught."""
    signal.setitimer(signal.ITIMER_PROF, STEP_SECONDS, 0.2)
    try:
        return function(*arguments, **options)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def same(gold: object, answer: object) -> bool:
    """Compare two forms; an answer that takes too long or raises an error is not equal."""
    from r1kit.rewards.equivalence import equal

    try:
        return equal(gold, answer, ask)
    except (Exception, OutOfTime):  # any error of math-verify
        return False


def main() -> None:
    """Serve requests until standard input closes."""
    # Ctrl-C reaches the whole terminal group, but the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, _out_of_time)
    out = os.dup(1)
    os.dup2(2, 1)  # a stray print of a library must not look like a verdict
    sys.path.append(str(Path(__file__).parents[2]))
    logging.disable(logging.CRITICAL)
    from r1kit.rewards.equivalence import Unread, parts, read

    for text in FAMILIAR:
        understood(text)
    _limit_memory()
    os.write(out, b"r")
    for line in sys.stdin.buffer:
        gold, answer = json.loads(line)
        _limit_cpu()
        form = read(gold)
        if not all(understood(part.text) for part in parts(form) if isinstance(part, Unread)):
            os.write(out, b"n")
            continue
        os.write(out, b"g")
        os.write(out, b"1" if same(form, read(answer)) else b"0")


def _out_of_time(number: int, frame: object) -> None:
    raise OutOfTime


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not every system has it; the time limits still hold


def _limit_cpu() -> None:
    """Let the kernel end this process (SIGXCPU) if the next request takes too long."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = int(used.ru_utime + used.ru_stime) + REQUEST_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))
    except (ImportError, ValueError, OSError):
        pass  # the parent's deadline still holds


if __name__ == "__main__":
    main()
