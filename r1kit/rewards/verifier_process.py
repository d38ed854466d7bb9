r"""The process that holds math-verify. Run as a file by `verifier.py`; not imported by r1kit.

It reads requests `{"gold": ..., "answer": ...}` one a line and answers each with bytes: `n` the gold cannot
be parsed, or `g` it can, followed by `1` equal or `0` not. Two steps, so that whoever kills it for hanging
knows which side hung. It ends when its input closes or when a request takes too long, even inside C code.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys

STEP_SECONDS = 3  # for one parse or one comparison, by math-verify's own alarm
REQUEST_SECONDS = 10  # for a whole request, by a watchdog thread that needs no interpreter lock
MEMORY_BYTES = 2 * 1024**3


def gold_parsed(gold: str) -> list | None:
    """Gold as math-verify's candidates, or None if nothing but the bare text was understood."""
    from math_verify import parse

    parsed = parse(rf"\boxed{{{gold}}}", parsing_timeout=STEP_SECONDS)
    return parsed if any(not isinstance(p, str) for p in parsed) else None


def equal(parsed_gold: list, answer: str) -> bool:
    """True if math-verify finds answer equal to gold."""
    from math_verify import parse, verify

    parsed = parse(rf"\boxed{{{answer}}}", parsing_timeout=STEP_SECONDS)
    return verify(parsed_gold, parsed, timeout_seconds=STEP_SECONDS)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):
        pass  # not every system has it; the time limit still holds


def main() -> None:
    """Serve requests until standard input closes."""
    # Ctrl-C goes to the whole terminal group; ending is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.dup(1)
    os.dup2(2, 1)  # a stray print of a library must not look like a verdict
    import logging

    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401

    _limit_memory()
    os.write(out, b"r")
    for line in sys.stdin.buffer:
        faulthandler.dump_traceback_later(REQUEST_SECONDS, exit=True)
        request = json.loads(line)
        parsed = gold_parsed(request["gold"])
        if parsed is None:
            verdict = b"n"
        else:
            os.write(out, b"g")
            verdict = b"1" if equal(parsed, request["answer"]) else b"0"
        faulthandler.cancel_dump_traceback_later()
        os.write(out, verdict)


if __name__ == "__main__":
    main()
