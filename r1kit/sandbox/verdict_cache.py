"""Verdicts remembered by hash of program, case and limits: groups repeat programs, epochs repeat problems."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from r1kit.sandbox.cases import Case
from r1kit.sandbox.verdicts import Limits, Verdict

SIZE = 50_000  # about 10 MB


class VerdictCache:
    """A bounded memory of verdicts, the least used forgotten first. Safe in threads."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Verdict, str]] = OrderedDict()

    def get(self, key: bytes) -> tuple[Verdict, str] | None:
        """(verdict, detail), or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: bytes, verdict: Verdict, detail: str) -> None:
        """Remember a verdict unless it may come out otherwise next time: trouble of ours, a busy machine."""
        if verdict in (Verdict.INFRA, Verdict.TIMEOUT):
            return
        with self._lock:
            self._kept[key] = verdict, detail
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def forked(self) -> None:
        """Call in a child after a fork: another thread may have held the lock at that moment."""
        self._lock = threading.Lock()


def verdict_key(language: str, program: str, case: Case, limits: Limits) -> bytes:
    """Hash of all that decides a verdict."""
    parts = (language, program, case.function, case.input, case.expected, repr(limits))
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()
