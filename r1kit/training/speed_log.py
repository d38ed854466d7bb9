"""The machine's speed while a CPU training runs: `speed.jsonl`, for `r1kit plan --against RUN`.

A laptop slows down when it is warm and whenever other work runs, so a speed measured at another time says
little about a step. Timed a few times in the training itself: the same process, threads and neighbours.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1kit.machine.layer_speed import measure_layer
from r1kit.runs import metrics

FIRST, EVERY = 5.0, 15.0  # seconds of training before the first row, and from row to row
WINDOW = 0.3  # seconds a row takes on a machine that is not overloaded
SHARE = 0.05  # of the training, at most: beside thirty programs on two cores a row took minutes (2026-11-24)
# Not less: a burst of another program made one row a tenth of the truth and as dear as ten, and with a
# hundredth it stayed the only row of a training of two minutes.


class SpeedLog(TrainerCallback):
    """Appends `{"step", "layer_gflops", "pass_seconds"}` after `FIRST` seconds and every `EVERY` from then,
    less often where a row is dear.

    Nothing on a GPU, whose peak the device table knows, nor with several processes, which would wait.
    """

    def __init__(self, path: str | Path):
        self.path, self.due = Path(path), math.inf

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        if args.device.type == "cpu" and args.world_size == 1:
            self.due = time.monotonic() + FIRST

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure and write a row where it is time to."""
        if time.monotonic() < self.due:
            return
        began = time.monotonic()
        found = measure_layer(WINDOW)
        row = {"step": state.global_step, "layer_gflops": found.gflops, "pass_seconds": found.pass_seconds}
        metrics.append(self.path, row)
        ended = time.monotonic()
        self.due = ended + max(EVERY, (ended - began) / SHARE)
