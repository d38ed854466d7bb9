r"""The process that holds math-verify. Run as a file by `verifier.py`; not imported by r1kit.

It reads requests `[gold, answer]` one a line and answers each with bytes: `n` the gold cannot be
understood, or `g` it can, followed by `1` equal or `0` not. Two steps, so that whoever kills it for
hanging knows which side hung.

Its bounds are in CPU time: math-verify's own alarms count wall time, so that a host busy with a training
turned right answers into wrong ones. A timer's signal ends a step written in Python; inside C code (a
power of powers) no signal handler runs, and there the kernel's limit ends the process. It also ends when
its input closes.
"""

from __future__ import annotations

import json
import os
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
"""Read at the start: the parser learns its grammar as it reads, up to 0.3 s at the first of a kind."""


class OutOfTime(BaseException):
    """Not an Exception: math-verify swallows those and goes on with the next method."""


@lru_cache(maxsize=256)
def parsed(text: str) -> list:
    """What math-verify understands of text; empty if nothing but the bare string."""
    from math_verify import parse

    found = within_time(parse, rf"\boxed{{{text}}}", parsing_timeout=None)
    return found if any(not isinstance(part, str) for part in found) else []


@lru_cache(maxsize=256)
def understood(text: str) -> bool:
    """True if text was parsed and its value can be computed in time: a gold that can't is nobody's fault."""
    try:
        found = parsed(unmistakable(text))
        if found:
            within_time(value, found[0])
        return bool(found)
    except (Exception, OutOfTime):  # whatever math-verify trips over
        return False


@lru_cache(maxsize=4096)
def ask(gold: str, answer: str) -> bool:
    """True if math-verify finds answer equal to gold."""
    from math_verify import verify

    one, other = parsed(unmistakable(gold)), parsed(unmistakable(answer))
    if not one or not other or within_time(clearly_different, one[0], other[0]):
        return False
    return within_time(verify, one, other, allow_set_relation_comp=True, timeout_seconds=None)


def clearly_different(one: object, other: object) -> bool:
    r"""True if two expressions have different values where their letters are given some.

    math-verify would try to simplify the difference: 0.3 s for `\sin 8x` and `\cos 8x`, measured on two cores
    on 2026-11-24, and here milliseconds.
    """
    values = [value(one), value(other)]
    if None in values:
        return False
    scale = max(1.0, *map(abs, values))
    return abs(values[0] - values[1]) > 1e-4 * scale  # math-verify rounds to six decimals


def value(expression: object) -> complex | None:
    """The value with some number for each letter; None for whatever is no expression or has none there."""
    from zlib import crc32

    from sympy import Expr, Float, Symbol

    if not isinstance(expression, Expr) or isinstance(expression, Symbol):
        return None
    # The same number for the same letter on both sides, whatever other letters there are.
    numbers = {letter: crc32(str(letter).encode()) % 10**6 / 10**6 for letter in expression.free_symbols}
    point = {letter: Float(0.3 + number) for letter, number in numbers.items()}
    try:
        found = complex(expression.evalf(15, subs=point))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return found if abs(found) < 1e300 else None


def unmistakable(text: str) -> str:
    """A last letter in brackets, or math-verify drops it as a unit: `2 \\sin 5t` was equal to `2 \\sin 5`."""
    import re

    lone = re.search(r"(?<![A-Za-z\\])[A-Za-z]{1,2}$", text) and not re.search(
        r"[,=<>]|\\(?:in|le|ge|ne|text)", text
    )
    return f"({text})" if lone else text


def within_time(function, *arguments, **options):
    """Call function; OutOfTime comes after STEP_SECONDS of CPU time, and again if something swallows it."""
    signal.setitimer(signal.ITIMER_PROF, STEP_SECONDS, 0.2)
    try:
        return function(*arguments, **options)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def same(gold: object, answer: object) -> bool:
    """True if answer equals gold; an answer that takes too long or breaks something doesn't."""
    from r1kit.rewards.equivalence import equal

    try:
        return equal(gold, answer, ask)
    except (Exception, OutOfTime):  # whatever math-verify trips over
        return False


def main() -> None:
    """Serve requests until standard input closes."""
    # Ctrl-C goes to the whole terminal group; ending is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, _out_of_time)
    out = os.dup(1)
    os.dup2(2, 1)  # a stray print of a library must not look like a verdict
    sys.path.append(str(Path(__file__).parents[2]))
    import logging

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
        pass  # not every system has it; the limits of time still hold


def _limit_cpu() -> None:
    """The kernel ends this process (SIGXCPU) when the request about to start takes too long."""
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
