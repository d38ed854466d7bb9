r"""Calling a function of a program inside the sandbox, and reading what it returned outside of it.

The program cannot be kept from writing whatever it likes to its output: it may print, exit, patch `json`, or
find the harness in memory. So nothing is trusted but one line, judged like any printed answer:

- The expected result is not in the sandbox. A forged line is worth no more than a wrong `return`.
- The line bears a mark drawn for this run, so what the program prints for itself neither helps nor hurts; the
  mark must occur exactly once, so printing several candidates is no result.
- No line, or exit code 0 without one (`os._exit(0)`, `sys.exit()`), is no result, and no result is a failed
  case.
- After the line the process leaves at once: `atexit`, threads and `__del__` add nothing.

The function is a name of the program, or a method of its class `Solution` (LeetCode's form). `__name__` is
not "__main__", so a program may also hold its own trial run. No imports are added to it.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from r1kit.sandbox.cases import Case
from r1kit.sandbox.compare import parse_result

_HARNESS = """
def _call(source):
    import json, os, sys, types
    dumps, write, leave = json.dumps, os.write, os._exit
    order = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    # A module of its own: dataclasses and typing look a class's module up by name.
    program = sys.modules["program"] = types.ModuleType("program")
    exec(compile(source, "program.py", "exec", dont_inherit=True), program.__dict__)
    name, arguments = order["function"], order["arguments"]
    if not hasattr(program, name) and hasattr(program, "Solution"):
        program = program.Solution()
    function = getattr(program, name)
    result = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
    line = ("\\n" + order["mark"] + dumps(result) + "\\n").encode()
    try:
        sys.stdout.flush()
    except Exception:
        pass  # the program's own output does not matter
    while line:
        line = line[write(out, line):]
    leave(0)
"""


def call_source(program: str) -> str:
    """Python that calls a function of `program` as standard input asks, and prints the result."""
    return f"{_HARNESS}\n_call({program!r})\n"


def call_order(case: Case) -> tuple[str, bytes]:
    """(mark, standard input) for one call; a new mark each time."""
    mark = f"result {secrets.token_hex(16)} "
    order = {"mark": mark, "function": case.function, "arguments": json.loads(case.input)}
    return mark, json.dumps(order).encode()


def call_result(stdout: bytes, mark: str) -> tuple[bool, Any]:
    """(True, result) if the output holds exactly one well-formed line with the mark, else (False, None)."""
    token = mark.encode()
    if stdout.count(token) != 1:
        return False, None
    line = next((line for line in stdout.split(b"\n") if line.startswith(token)), b"")
    return parse_result(line[len(token) :])
