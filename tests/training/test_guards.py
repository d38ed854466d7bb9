"""A GRPO that has collapsed or cannot be scored is stopped with a named sign; one that learns is not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from transformers import TrainerControl

from r1kit.runs import jsonl
from r1kit.runs.outcome import ExitCode
from r1kit.settings.training import GuardSettings
from r1kit.training import checkpoints
from r1kit.training.rl.guards import (
    Collapsed,
    Guards,
    TooManyUnjudged,
    UnscoredWatch,
    diversity,
    find_sign,
)

from .conftest import rows as metric_rows
from .conftest import start, write_job

BOUNDS = GuardSettings(window=5)


def rows(count: int, **changes: tuple[float, float]) -> list[dict]:
    """Rows of a healthy training; each change goes in a straight line from its first figure to its second."""
    usual = {
        "reward": (0.6, 1.0), "entropy": (0.06, 0.02), "completions/mean_length": (26, 31),
        "completions/clipped_ratio": (0.0, 0.0), "diversity/same_answer": (0.2, 0.2),
        "diversity/repetition": (0.1, 0.2),
    }  # fmt: skip
    return [
        {"step": at + 1}
        | {name: a + (b - a) * at / (count - 1) for name, (a, b) in (usual | changes).items()}
        for at in range(count)
    ]


def test_the_shipped_training_is_left_alone():
    """The 04_grpo of cpu-cluster, 2026-11-24: entropy 0.062 to 0.019, 1% cut at most."""
    changes = {"entropy": (0.062, 0.019), "completions/mean_length": (26.2, 33.0)}
    assert find_sign(rows(63, **changes, **{"completions/clipped_ratio": (0.01, 0.0)}), GuardSettings()) == ""


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"entropy": (0.06, 0.0)}, "min_entropy"),
        ({"entropy": (0.05, 4.0)}, "max_entropy_growth"),
        ({"diversity/same_answer": (0.2, 1.0)}, "max_same_answer"),
        ({"diversity/repetition": (0.1, 1.0)}, "max_repetition"),
        ({"completions/mean_length": (40, 2)}, "min_length_share"),
        ({"completions/clipped_ratio": (0.0, 1.0)}, "max_clipped"),
    ],
)
def test_every_sign_is_named_and_can_be_turned_off(changes, named):
    collapsed = rows(200, **changes)
    assert named in find_sign(collapsed, BOUNDS)
    assert find_sign(collapsed, BOUNDS.model_copy(update={named: None})) == ""


def test_few_distinct_answers_are_a_sign_where_a_bound_is_set():
    collapsed = rows(20, **{"diversity/distinct_answers": (0.1, 0.1)})
    assert find_sign(collapsed, BOUNDS) == ""
    assert "min_distinct" in find_sign(collapsed, BOUNDS.model_copy(update={"min_distinct": 0.2}))


def test_a_base_model_whose_answers_never_ended_is_not_collapsed():
    assert find_sign(rows(40, **{"completions/clipped_ratio": (1.0, 1.0)}), BOUNDS) == ""


def held_out(values: list[float], **changes: tuple[float, float]) -> list[dict]:
    found = rows(40, **changes)
    for row, value in zip(found[9::5], values, strict=False):
        row["heldout/pass@1"] = value
    return found


def test_a_reward_that_rises_while_held_out_accuracy_falls_is_hacked():
    fallen = held_out([0.6, 0.7, 0.6, 0.55, 0.5])
    assert "held-out pass@1 fell from 0.700" in find_sign(fallen, BOUNDS)
    assert find_sign(fallen, BOUNDS.model_copy(update={"min_heldout_drop": None})) == ""


def test_evaluations_may_have_rows_of_their_own():
    fallen = []
    for row in held_out([0.6, 0.7, 0.6, 0.55, 0.5]):
        measured = row.pop("heldout/pass@1", None)
        fallen += [row] if measured is None else [row, {"step": row["step"], "heldout/pass@1": measured}]
    assert "held-out pass@1 fell from 0.700" in find_sign(fallen, BOUNDS)


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ([0.6, 0.7, 0.6, 0.69, 0.6], {}),  # one measurement is as good as the best
        ([0.6, 0.6, 0.7, 0.6, 0.6], {}),  # only two since the best one
        ([0.6, 0.7, 0.6, 0.55, 0.5], {"reward": (1.0, 0.6)}),  # the reward falls too: no gaming
        ([], {}),
    ],
)
def test_other_courses_of_held_out_accuracy_are_no_sign(values, changes):
    assert find_sign(held_out(values, **changes), BOUNDS) == ""


def answer(value: int, steps: str = "a b c d") -> str:
    return f"<think>\n{steps}\n</think>\n<answer>\n{value}\n</answer>"


def test_diversity_counts_answers_and_repeated_words():
    texts = [answer(1), answer(1), answer(2), answer(3)]
    found = diversity(texts, 2, right=[1.0, 1.0, 0.0, 1.0])
    assert found["diversity/distinct_answers"] == 1.0  # the group that is all right may agree
    assert "diversity/same_answer" not in found  # two prompts are too few
    assert found["diversity/repetition"] == 0.0
    loop = diversity([answer(1, "on and " * 50)], 1)["diversity/repetition"]
    assert loop > 0.8


def test_one_answer_to_prompts_with_different_solutions_is_counted():
    texts = [answer(7)] * 6 + ["no answer"] * 2
    assert diversity(texts, 2, solutions=list("11223344"))["diversity/same_answer"] == 0.75
    assert "diversity/same_answer" not in diversity(texts, 2, solutions=list("11221122"))
    assert diversity(["no answer"] * 8, 2)["diversity/same_answer"] == 0.0


def stepped(guards: Guards, new: list[dict]) -> TrainerControl:
    control = TrainerControl()
    for row in new:
        state = SimpleNamespace(global_step=row["step"], is_world_process_zero=True)
        guards.on_log(None, state, control, logs={k: v for k, v in row.items() if k != "step"})
        if control.should_training_stop:
            break
    return control


def test_a_guard_saves_stops_and_exits_with_its_own_code(tmp_path):
    guards = Guards(BOUNDS, tmp_path / "metrics.jsonl")
    control = stepped(guards, rows(100, entropy=(0.06, 0.0)))
    assert control.should_save
    assert control.should_training_stop
    with pytest.raises(Collapsed, match="entropy is gone") as stopped:
        guards.on_train_end(None, None, control)
    assert stopped.value.returncode == ExitCode.GUARD == 6


def test_a_resumed_training_judges_by_the_rows_that_were_kept(tmp_path):
    whole = rows(100, entropy=(0.06, 0.0))
    uninterrupted, resumed = (Guards(BOUNDS, tmp_path / name) for name in ("none.jsonl", "metrics.jsonl"))
    stepped(uninterrupted, whole)
    for row in whole[:95]:
        jsonl.append(resumed.path, row)
    resumed.on_train_begin(None, SimpleNamespace(global_step=90, is_world_process_zero=True), None)
    assert len(resumed.rows) == 90
    stepped(resumed, whole[90:])
    assert resumed.message == uninterrupted.message != ""


def test_a_training_that_was_not_stopped_ends_in_silence(tmp_path):
    guards = Guards(BOUNDS, tmp_path / "metrics.jsonl")
    assert not stepped(guards, rows(40)).should_training_stop
    guards.on_train_end(None, None, None)


def stopped(watch: UnscoredWatch) -> bool:
    control = SimpleNamespace(should_save=False, should_log=False, should_training_stop=False)
    watch.on_step_end(None, None, control)
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


def test_one_unreadable_solution_in_fifty_is_borne_and_two_are_not():
    watch = UnscoredWatch(group_size=16)
    watch.add(16, 128)
    assert not stopped(watch)
    watch.on_train_end(None, None, None)
    watch.add(16, 128, "solution: 'prose'")
    assert stopped(watch)
    with pytest.raises(TooManyUnjudged, match=r"32 of the last 256 .* more than 2% of 800\. .*'prose'"):
        watch.on_train_end(None, None, None)


def test_what_is_long_past_is_forgotten():
    watch = UnscoredWatch(group_size=16)
    for _ in range(30):
        watch.add(16, 128)
        for _ in range(7):
            watch.add(0, 128)
        assert not stopped(watch)


def test_a_sandbox_that_fails_late_stops_the_training_at_once():
    watch = UnscoredWatch(group_size=8)
    for _ in range(1000):
        watch.add(0, 64)
    watch.add(64, 64)
    assert stopped(watch)


def test_a_batch_larger_than_fifty_groups_is_measured_whole():
    watch = UnscoredWatch(group_size=8)
    watch.add(80, 8192)
    assert not stopped(watch)
    watch.add(200, 8192)
    assert stopped(watch)


UNREADABLE = {
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "learning_rate": 1e-4,
    "save_strategy": "no",
    "logging_steps": 1,
    "rewards": [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.2}],
}


@pytest.mark.slow
def test_a_training_without_readable_solutions_ends_with_a_message_and_a_checkpoint(world, tmp_path):
    from datasets import load_from_disk

    prompts = load_from_disk(str(world / "prompts"))
    unreadable = prompts.remove_columns("solution").add_column(
        "solution", ["We see that the result is four"] * len(prompts)
    )
    unreadable.save_to_disk(str(tmp_path / "prompts"))
    job = write_job(tmp_path / "job", world, grpo=UNREADABLE)
    resolved = (job / "resolved.yaml").read_text()
    (job / "resolved.yaml").write_text(resolved.replace(str(world / "prompts"), str(tmp_path / "prompts")))
    assert start("grpo", job).wait(timeout=300) == 1
    log = (job / "train.log").read_text()
    assert "TooManyUnjudged: 8 of the last 8 completions could not be judged" in log
    assert "We see that the result is four" in log
    assert checkpoints.step_of(checkpoints.newest_complete(job / "checkpoints")) == 1
    assert not (job / "model").exists()
    (row,) = metric_rows(job)
    assert row["frac_unjudged"] == 1.0
    assert row["frac_reward_zero_std"] == 1.0
    assert json.dumps(row["reward"]) in ("null", "NaN")


GUARDED = {
    "rewards": [{"name": "tag_count", "weight": 1.0}],
    "algorithm": "gspo",
    "guards": {"window": 2, "min_entropy": 100.0},  # nats a token: no model has so much
    "curriculum": {
        "strategy": "length",
        "lengths": [{"step": 0, "max_completion_length": 6}, {"step": 1, "max_completion_length": 12}],
    },
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 6,
    "save_steps": 6,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
}


@pytest.mark.slow
def test_a_guard_ends_a_training_with_its_own_code_and_keeps_the_checkpoint(world, tmp_path):
    folder = write_job(tmp_path / "grpo", world, grpo=GUARDED)
    assert start("grpo", folder).wait(timeout=300) == ExitCode.GUARD
    told = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
    assert told["returncode"] == ExitCode.GUARD
    assert "entropy is gone" in told["message"]
    assert "min_entropy: 100" in told["message"]
    assert told["message"] in (folder / "train.log").read_text(encoding="utf-8")
    assert (folder / "checkpoints/checkpoint-2/complete.json").is_file()
    assert not (folder / "model").exists()
    first, second = metric_rows(folder)
    assert [row["curriculum/max_completion_length"] for row in (first, second)] == [6.0, 12.0]
    assert first["completions/max_length"] <= 6 < second["completions/max_length"] <= 12
    assert first["diversity/repetition"] is not None
