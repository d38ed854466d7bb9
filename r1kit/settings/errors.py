"""What is wrong with the settings, said completely: file, key, found, allowed, nearest known name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """One wrong setting. Every field is text ready to print; empty means there is nothing to say.

    `rule` names what found it; a warning is worth reading but stops nothing.
    """

    file: str
    key: str
    found: str = ""
    allowed: str = ""
    nearest: str = ""
    message: str = ""
    line: int | None = None
    rule: str = ""
    severity: Literal["error", "warning"] = "error"

    @property
    def where(self) -> str:
        """`configs/cpu-tiny/sft.yaml:4`."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def as_finding(self) -> dict[str, str]:
        """The problem for `r1kit doctor --settings-only --json`: every field is text."""
        allowed = f"allowed: {self.allowed}" if self.allowed else ""
        fix = f"write `{self.nearest}`" if self.nearest else ""
        return {
            "rule": self.rule or "settings",
            "severity": self.severity,
            "file": self.file,
            "key": self.key,
            "found": self.found,
            "message": self.message or f"{self.found or 'nothing'} is not allowed here.",
            "fix": "; ".join(part for part in (fix, allowed) if part) or self.message,
        }

    def __str__(self) -> str:
        lines = [f"{self.where}  {self.key}".rstrip()]
        lines += [f"    found    {self.found}"] if self.found else []
        lines += [f"    allowed  {self.allowed}"] if self.allowed else []
        lines += [f"    {self.message}"] if self.message else []
        lines += [f"    Did you mean `{self.nearest}`?"] if self.nearest else []
        return "\n".join(lines)


class SettingsError(ValueError):
    """Bad settings or arguments: all problems at once. The command line exits with `exit_code` 2."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], heading: str = ""):
        self.problems = list(problems)
        count = len(self.problems)
        self.heading = heading or f"{count} problem{'s' if count != 1 else ''} in the settings"
        super().__init__(str(self))

    def __reduce__(self) -> tuple:
        return type(self), (self.problems, self.heading)

    def __str__(self) -> str:
        return "\n\n".join(
            [f"{self.heading}; nothing was started.", *(str(problem) for problem in self.problems)]
        )

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: in a notebook the message is the whole story, a traceback would only hide it."""
        return [f"SettingsError: {line}" if i == 0 else line for i, line in enumerate(str(self).splitlines())]


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name most like `name`, or "" if none is like it."""
    known = list(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=cutoff)
    if matches:
        return lowered[matches[0]]
    # `grace` is unlike `grace_seconds` letter by letter, but plainly meant.
    return next(
        (known_name for lower, known_name in lowered.items() if lower.startswith(f"{str(name).lower()}_")), ""
    )


def describe(value: Any) -> str:
    """The value as YAML would show it and its type in plain words: `"1e-6" (text)`, `8 (whole number)`."""
    kinds = [
        (bool, "true/false"),
        (int, "whole number"),
        (float, "number"),
        (str, "text"),
        (dict, "mapping"),
        ((list, tuple), "list"),
    ]
    if value is None:
        return "nothing (empty)"
    kind = next((word for types, word in kinds if isinstance(value, types)), type(value).__name__)
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        shown = shown.lower()
    return f"{shown if len(shown) <= 80 else shown[:77] + '...'} ({kind})"


def shipped_folder(name: str) -> Path:
    """Return configs/, sites/ or notebooks/: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / name


def display_path(path: str | Path) -> str:
    """Relative to the working folder when it lies below it, otherwise as it is."""
    text = os.fspath(path)
    if not os.path.isabs(text):
        return text
    relative = os.path.relpath(text)
    return text if relative.startswith("..") else relative
