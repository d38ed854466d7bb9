"""A training asked to stop: one signal lets the step end and a checkpoint be written, a second does not."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

ECHO_SECONDS = 5.0  # in which a second SIGTERM is taken for the first


@dataclass
class StopRequest:
    """Remembers the first SIGTERM or SIGINT; the training loop asks for it after every step.

    Before and after the loop (`in_loop` False) a signal ends the program at once: there is nothing to save.
    So does a second signal, whatever the program is doing, unless it comes right behind the first: torchrun's
    agent, which is inside `accelerate launch`, passes on to its processes what they have already heard.
    `received` may also come from another process of the training; this one's own signal, a moment later, is
    then its first.
    """

    received: int | None = None
    heard: float = 0.0
    in_loop: bool = False
    signals: int = 0

    def install(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.signals and number == signal.SIGTERM and now - self.heard < ECHO_SECONDS:
            return
        self.signals += 1
        if self.signals > 1:
            os._exit(128 + number)
        self.heard = now
        if self.received is not None:
            return
        self.received = number
        if not self.in_loop:
            raise SystemExit(128 + number)
        print(f"{signal.Signals(number).name}: finishing this step, then saving a checkpoint", flush=True)
