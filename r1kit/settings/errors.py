"""Errors that a user can correct: a message, no traceback, and the command line exits with 2.

A wrong setting is a Problem: file, key, found value, allowed values, nearest known name. SettingsError
carries all problems at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


class UserError(ValueError):
    """A mistake that the user can correct. `r1kit` prints the message and exits with `exit_code`."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One wrong setting. Each field is printable text; an empty one is left out of the message.

    `rule` names the check that reported it. A warning is printed and stops nothing.
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
        """Return the problem as text fields for `r1kit doctor --settings-only --json`."""
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


class SettingsError(UserError):
    """Wrong settings or arguments, with all problems at once."""

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
        """Replace the traceback in a notebook by the message (IPython calls this)."""
        return f"SettingsError: {self}".splitlines()


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known name most similar to `name`, or "" if none reaches `cutoff` (0 to 1)."""
    lowered = {candidate.lower(): candidate for candidate in known}
    text = str(name).lower()
    matches = difflib.get_close_matches(text, lowered, n=1, cutoff=cutoff)
    if matches:
        return lowered[matches[0]]
    # `grace` scores low against `grace_seconds`, but is clearly meant.
    return next((candidate for lower, candidate in lowered.items() if lower.startswith(f"{text}_")), "")


def describe(value: Any) -> str:
    """Return the value as YAML shows it with its type in words: `"1e-6" (text)`, `8 (whole number)`."""
    if value is None:
        return "nothing (empty)"
    kinds = {bool: "true/false", int: "whole number", float: "number", str: "text", dict: "mapping"}
    kind = next(
        (word for type_, word in kinds.items() if isinstance(value, type_)),
        "list" if isinstance(value, (list, tuple)) else type(value).__name__,
    )
    text = f'"{value}"' if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        text = text.lower()
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({kind})"


def shipped_folder(name: str) -> Path:
    """Return configs/, sites/ or notebooks/: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / name


def display_path(path: str | Path) -> str:
    """Return the path relative to the working folder if it is inside it, else unchanged."""
    text = os.fspath(path)
    if not os.path.isabs(text):
        return text
    relative = os.path.relpath(text)
    return text if relative.startswith("..") else relative
