"""Stop a GRPO that has collapsed, games its reward or cannot score its completions: with a checkpoint, and
with the sign that was seen.

The signs: entropy that falls to nothing (DAPO, arXiv:2503.14476, section 3.1) or rises until the policy
dissolves, answers that no longer depend on the prompt, loops of words, reasoning that vanishes or never ends,
and a reward that rises while held-out accuracy falls. Their bounds are `guards` in grpo.yaml.

Only rows of metrics.jsonl are looked at, so a resumed training judges as the uninterrupted one does, and one
that was stopped here stops again until its bound is changed.

`UnscoredWatch` needs no setting: a broken sandbox or a dataset with unreadable solutions would otherwise
train on what little is left.
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

MAX_TEXTS = 256
"""Completions of a step that are looked at for repetition: words of long ones take seconds."""

ENTROPY, LENGTH, CLIPPED = "entropy", "completions/mean_length", "completions/clipped_ratio"
DISTINCT, SAME, REPEATED = "diversity/distinct_answers", "diversity/same_answer", "diversity/repetition"


MAX_UNSCORED_SHARE = 0.02
"""Share of completions that may be left without a score."""

UNSCORED_GROUPS = 50
"""The share is taken over at least so many groups: one unreadable solution makes a whole group unscored."""


class Collapsed(Stopped):
    """A guard has ended the training."""

    def __init__(self, message: str):
        super().__init__(message, returncode=ExitCode.GUARD)


class Guards(TrainerCallback):
    """Looks at every logged row; at a sign all processes save, leave the loop and raise Collapsed."""

    def __init__(self, settings: GuardSettings, path: Path):
        self.settings, self.path = settings, path
        self.rows: list[dict[str, Any]] = []
        self.message = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Take up the rows that were kept."""
        if state.is_world_process_zero and self.path.exists():
            self.rows = [row for row in jsonl.read(self.path) if row["step"] <= state.global_step]

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict, **kwargs: Any
    ) -> TrainerControl:
        """Judge with the new row; the trainer saves after it has logged."""
        if "train_loss" in logs:  # Trainer's last words
            return control
        found = ""
        if state.is_world_process_zero:
            self.rows.append(dict(logs))
            found = find_sign(self.rows, self.settings)
        (found,) = broadcast_object_list([found])
        if found:
            self.message = (
                f"Stopped by a guard after step {state.global_step}: {found}. The checkpoint of this step is "
                "kept and no final model is written; rollouts/ shows what was answered. Take an earlier "
                "checkpoint or a lower learning rate, or change the bound in grpo.yaml to go on."
            )
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say so, before a final model is written."""
        if self.message:
            raise Collapsed(self.message)


def find_sign(rows: Sequence[dict[str, Any]], settings: GuardSettings) -> str:
    """The first sign of collapse in the rows of a GRPO, oldest first, as a sentence with figures; or ""."""
    every, window = rows, settings.window
    rows = [row for row in every if "reward" in row]  # evaluations have rows of their own
    if len(rows) < window:
        return ""
    first, last = rows[:window], rows[-window:]
    for name, key, above, what in (
        (ENTROPY, "min_entropy", False, "entropy is gone: {:.4f} nats a token"),
        (SAME, "max_same_answer", True, "{:.0%} of the completions of different prompts give one answer"),
        (
            DISTINCT,
            "min_distinct",
            False,
            "groups are of one mind: {:.0%} distinct answers where not all are right",
        ),
        (REPEATED, "max_repetition", True, "completions loop: {:.0%} of their 4-grams are repeated"),
    ):
        value, bound = mean(last, name), getattr(settings, key)
        if None not in (value, bound) and (value > bound if above else value < bound):
            return f"{what.format(value)} ({key}: {bound:g}, over {window} rows)"
    if len(rows) < 2 * window:
        return ""
    return _against_the_start(first, last, settings) or _against_held_out(every, settings)


def _against_the_start(first: Sequence[dict], last: Sequence[dict], settings: GuardSettings) -> str:
    """Signs that compare the newest window with the first one."""
    before, now = mean(first, ENTROPY), mean(last, ENTROPY)
    most = settings.max_entropy_growth
    if None not in (before, now, most) and now > most * before:
        what = f"the policy dissolves: entropy rose from {before:.3f} to {now:.3f}"
        return f"{what} (max_entropy_growth: {most:g})"
    before, now = mean(first, LENGTH), mean(last, LENGTH)
    least = settings.min_length_share
    if None not in (before, now, least) and now < least * before:
        return f"completions shrank from {before:.0f} to {now:.0f} tokens (min_length_share: {least:g})"
    before, now = mean(first, CLIPPED), mean(last, CLIPPED)
    most = settings.max_clipped
    if None not in (before, now, most) and before <= most < now:
        what = f"completions no longer end: {now:.0%} are cut, {before:.0%} were at first"
        return f"{what} (max_clipped: {most:g})"
    return ""


def _against_held_out(rows: Sequence[dict], settings: GuardSettings) -> str:
    """Whether the reward rose while held-out accuracy stayed below what it had been."""
    measured = [(at, row[PASS]) for at, row in enumerate(rows) if row.get(PASS) is not None]
    if settings.min_heldout_drop is None or not measured:
        return ""
    at, best = max(measured, key=lambda pair: pair[1])
    later = [value for place, value in measured if place > at][-settings.patience :]
    if len(later) < settings.patience or max(later) > best - settings.min_heldout_drop:
        return ""
    until_then = [row for row in rows[: at + 1] if "reward" in row]
    until_now = [row for row in rows if "reward" in row]
    before, now = (mean(found[-settings.window :], "reward") for found in (until_then, until_now))
    if None in (before, now) or now - before < settings.min_reward_rise:
        return ""
    return (
        f"the reward rose from {before:.3f} to {now:.3f} while held-out pass@1 fell from {best:.3f} to "
        f"{max(later):.3f} or less, {len(later)} times in a row "
        f"(min_heldout_drop: {settings.min_heldout_drop:g})"
    )


def mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Of the rows that have the metric; None if none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def diversity(
    completions: Sequence[str],
    size: int,
    right: Sequence[float] | None = None,
    solutions: Sequence | None = None,
) -> dict[str, float]:
    """How different answers are in one batch of groups of `size`, and how much completions repeat themselves.

    Args:
        completions: texts, group after group [groups * size].
        right: the accuracy reward of each; groups in which all are right may agree.
        solutions: of each; where fewer than four differ, one answer to all prompts says nothing.

    Returns:
        DISTINCT: distinct answers over `size`, mean of the groups not all right; SAME: share of completions
        with the commonest answer; REPEATED. Without a key where there is nothing to say.
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
    """Counts unscored completions, and stops with a checkpoint if they pass `MAX_UNSCORED_SHARE`."""

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
        """Completions over which the share is taken: `UNSCORED_GROUPS` groups, or a generation if more."""
        return max(UNSCORED_GROUPS * self.group_size, self.recent[-1][1] if self.recent else 0)

    @property
    def message(self) -> str:
        """Why the training must stop; empty while it need not."""
        unscored = sum(count for count, _ in self.recent)
        if unscored <= MAX_UNSCORED_SHARE * self.rows:
            return ""
        seen = sum(count for _, count in self.recent)
        example = self.example or "on another process"
        return (
            f"{unscored} of the last {seen} completions could not be judged, more than "
            f"{MAX_UNSCORED_SHARE:.0%} of {self.rows}. The first: {example}. Rewards of None come from "
            "solutions or test cases that cannot be read, or from a sandbox that fails: see train.log."
        )

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Save and leave the loop; unscored rows had no advantage, so the step itself did no harm."""
        if self.message:
            control.should_save = control.should_log = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise before a final model is written."""
        if self.message:
            raise TooManyUnjudged(self.message)
