"""One requirement of the doctor: what was found, what is wanted, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One requirement. `ok` is False for a warning too; only the level "fail" stops a run."""

    name: str
    ok: bool
    found: str
    want: str = ""
    do: str = ""
    level: Level = "ok"

    def __str__(self) -> str:
        head = f"{f'[{self.level.upper()}]':6} {self.name}: "
        return f"{head}{self.found}" if self.ok else f"{head}found {self.found}, want {self.want}, {self.do}"


def make(name: str, level: Level, found: str, want: str = "", do: str = "") -> Check:
    """A check whose level says whether it is met."""
    return Check(name, level == "ok", found, want, do, level)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB"
