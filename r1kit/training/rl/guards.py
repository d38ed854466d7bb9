"""Guards stop a GRPO training that has collapsed, games its reward or cannot score its completions.

They save a checkpoint and name the sign. The signs: entropy that falls to nothing (DAPO, arXiv:2503.14476,
section 3.1) or keeps rising, answers that no longer depend on the prompt, loops of words, reasoning that
vanishes or never ends, and a reward that rises while held-out accuracy falls. Their bounds are `guards` in
grpo.yaml. `Guards` reads only rows of metrics.jsonl, so a resumed training decides as the uninterrupted one
does, and a training that a guard stopped stops again until the bound is changed.

`UnscoredWatch` needs no setting: with a broken sandbox or a dataset with unreadable solutions, GRPO would
otherwise train on the few completions that still get a score.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState

from r1kit.rewards.accuracy import answer_after_reasoning
from r1kit.rewards.style import repeated_share
from r1kit.runs import jsonl
from r1kit.runs.outcome import ExitCode
from r1kit.settings.training import GuardSettings
from r1kit.training.rl.heldout import PASS
from r1kit.training.watchdog import Stopped

ENTROPY, LENGTH, CLIPPED = "entropy", "completions/mean_length", "completions/clipped_ratio"
DISTINCT, SAME, REPEATED = "diversity/distinct_answers", "diversity/same_answer", "diversity/repetition"

MAX_TEXTS = 256
"""Completions per step that are checked for repetition: long ones take seconds."""
MAX_UNSCORED_SHARE = 0.02
"""Share of completions that may be left without a score."""
UNSCORED_GROUPS = 50
"""Minimum number of groups for that share: one unreadable solution leaves a whole group without a score."""


class Collapsed(Stopped):
    """A guard has ended the training."""

    def __init__(self, message: str):
        super().__init__(message, returncode=ExitCode.GUARD)


class Guards(TrainerCallback):
    """Checks every logged row; at a sign all processes save, leave the loop and raise Collapsed."""

    def __init__(self, settings: GuardSettings, path: Path):
        self.settings, self.path = settings, path
        self.rows: list[dict[str, Any]] = []
        self.message = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Read the rows that were kept."""
        if state.is_world_process_zero and self.path.exists():
            self.rows = [row for row in jsonl.read(self.path) if row["step"] <= state.global_step]

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict, **kwargs: Any
    ) -> TrainerControl:
        """Decide with the new row; the trainer saves after it has logged."""
        if "train_loss" in logs:  # the Trainer's summary at the end of the training
            return control
        sign = ""
        if state.is_world_process_zero:
            self.rows.append(dict(logs))
            sign = find_sign(self.rows, self.settings)
        (sign,) = broadcast_object_list([sign])
        if sign:
            self.message = (
                f"Stopped by a guard after step {state.global_step}: {sign}. The checkpoint of this step is "
                "kept and no final model is written; rollouts/ holds the completions. Take an earlier "
                "checkpoint or a lower learning rate, or change the bound in grpo.yaml to continue."
            )
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise before a final model is written.

        Raises:
            Collapsed: a guard has stopped the training.
        """
        if self.message:
            raise Collapsed(self.message)


def find_sign(rows: Sequence[dict[str, Any]], settings: GuardSettings) -> str:
    """Return the first sign of collapse in a GRPO's rows, oldest first, as a sentence with numbers; or ""."""
    trained, window = [row for row in rows if "reward" in row], settings.window  # evaluations have none
    if len(trained) < window:
        return ""
    newest = trained[-window:]
    for name, key, upper, sentence in (
        (ENTROPY, "min_entropy", False, "entropy is gone: {:.4f} nats per token"),
        (SAME, "max_same_answer", True, "{:.0%} of the completions of different prompts give one answer"),
        (DISTINCT, "min_distinct", False, "groups agree: {:.0%} distinct answers where not all are right"),
        (REPEATED, "max_repetition", True, "completions loop: {:.0%} of their 4-grams are repeated"),
    ):
        value, bound = mean(newest, name), getattr(settings, key)
        if None not in (value, bound) and (value > bound if upper else value < bound):
            return f"{sentence.format(value)} ({key}: {bound:g}, over {window} rows)"
    if len(trained) < 2 * window:
        return ""
    start = trained[:window]
    old, new, bound = mean(start, ENTROPY), mean(newest, ENTROPY), settings.max_entropy_growth
    if None not in (old, new, bound) and new > bound * old:
        what = f"the policy dissolves: entropy rose from {old:.3f} to {new:.3f}"
        return f"{what} (max_entropy_growth: {bound:g})"
    old, new, bound = mean(start, LENGTH), mean(newest, LENGTH), settings.min_length_share
    if None not in (old, new, bound) and new < bound * old:
        return f"completions shrank from {old:.0f} to {new:.0f} tokens (min_length_share: {bound:g})"
    old, new, bound = mean(start, CLIPPED), mean(newest, CLIPPED), settings.max_clipped
    if None not in (old, new, bound) and old <= bound < new:
        what = f"completions no longer end: {new:.0%} are cut, {old:.0%} were at first"
        return f"{what} (max_clipped: {bound:g})"
    return _reward_without_accuracy(rows, settings)


def _reward_without_accuracy(rows: Sequence[dict], settings: GuardSettings) -> str:
    """Compare the reward with held-out accuracy since its best measurement."""
    measured = [(at, row[PASS]) for at, row in enumerate(rows) if row.get(PASS) is not None]
    if settings.min_heldout_drop is None or not measured:
        return ""
    at, best = max(measured, key=lambda pair: pair[1])
    later = [value for place, value in measured if place > at][-settings.patience :]
    if len(later) < settings.patience or max(later) > best - settings.min_heldout_drop:
        return ""
    before, now = (
        mean([row for row in part if "reward" in row][-settings.window :], "reward")
        for part in (rows[: at + 1], rows)
    )
    if None in (before, now) or now - before < settings.min_reward_rise:
        return ""
    return (
        f"the reward rose from {before:.3f} to {now:.3f} while held-out pass@1 fell from {best:.3f} to "
        f"{max(later):.3f} or less, {len(later)} times in a row "
        f"(min_heldout_drop: {settings.min_heldout_drop:g})"
    )


def mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean of a metric over the rows that have it; None if none does."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def diversity(
    completions: Sequence[str],
    size: int,
    right: Sequence[float] | None = None,
    solutions: Sequence | None = None,
) -> dict[str, float]:
    """Measure how different the answers of a batch are, and how much completions repeat themselves.

    Args:
        completions: texts, group after group [groups * size].
        right: the accuracy reward of each; groups in which all are right may agree.
        solutions: the solution of each; with fewer than four different ones SAME would mean nothing.

    Returns:
        DISTINCT: distinct answers over `size`, mean of the groups not all right; SAME: share of completions
        with the commonest answer; REPEATED: share of repeated word 4-grams. A metric that cannot be measured
        is left out.
    """
    answers = [answer_after_reasoning(text) for text in completions]
    groups = [slice(start, start + size) for start in range(0, len(answers), size)]
    found = {}
    mixed = [group for group in groups if right is None or min(right[group]) < 1.0]
    if mixed:
        found[DISTINCT] = sum(len(set(answers[group])) / size for group in mixed) / len(mixed)
    if len(groups) >= 4 and (solutions is None or len(set(map(str, solutions))) >= 4):
        counts = Counter(answer for answer in answers if answer is not None)
        found[SAME] = max(counts.values(), default=0) / len(answers)
    some = completions[:: -(-len(completions) // MAX_TEXTS)] if completions else []
    if some:
        found[REPEATED] = sum(repeated_share(text, 4) for text in some) / len(some)
    return found


class TooManyUnjudged(RuntimeError):
    """More than `MAX_UNSCORED_SHARE` of the completions could not be scored."""


class UnscoredWatch(TrainerCallback):
    """Counts unscored completions, and stops with a checkpoint if they exceed `MAX_UNSCORED_SHARE`."""

    def __init__(self, group_size: int):
        self.group_size = group_size
        self.recent: deque[tuple[int, int]] = deque()  # (unscored, completions) of each generation
        self.example = ""

    def add(self, unscored: int, completions: int, example: str = "") -> None:
        """Count one generation, over all processes; `example` describes an unscored row."""
        self.recent.append((unscored, completions))
        while len(self.recent) > 1 and sum(n for _, n in self.recent) - self.recent[0][1] >= self.rows:
            self.recent.popleft()
        self.example = example or self.example

    @property
    def rows(self) -> int:
        """Completions that the share is measured over: `UNSCORED_GROUPS` groups, or a generation if more."""
        return max(UNSCORED_GROUPS * self.group_size, self.recent[-1][1] if self.recent else 0)

    @property
    def message(self) -> str:
        """Why the training must stop; empty as long as it need not."""
        unscored, counted = map(sum, zip((0, 0), *self.recent, strict=True))
        if unscored <= MAX_UNSCORED_SHARE * self.rows:
            return ""
        return (
            f"{unscored} of the last {counted} completions could not be judged, more than "
            f"{MAX_UNSCORED_SHARE:.0%} of {self.rows}. The first: {self.example or 'on another process'}. "
            "Rewards of None come from solutions or test cases that cannot be read, or from a sandbox that "
            "fails: see train.log."
        )

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Save and leave the loop; unscored rows had no advantage, so the step itself did no harm."""
        if self.message:
            control.should_save = control.should_log = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise before a final model is written.

        Raises:
            TooManyUnjudged: too many completions have no score.
        """
        if self.message:
            raise TooManyUnjudged(self.message)
