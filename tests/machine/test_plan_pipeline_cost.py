"""The price of composed trainings: what the stages hand on, what answers cost, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from r1kit.cli.main import main
from r1kit.evaluation.benchmarks import BENCHMARKS
from r1kit.machine.plan import PipelinePlan, StageCost, make_plan, plan_pipeline
from r1kit.settings import SettingsError, load_profile, profile_names
from r1kit.settings.evaluation import PROBLEMS
from r1kit.settings.profile import pipeline_profile, stage_profiles
from r1kit.views.plan import render_pipeline


@pytest.fixture(scope="module")
def r1() -> PipelinePlan:
    return plan_pipeline("h200-8", {}, "r1")


@pytest.fixture(scope="module")
def changed(r1: PipelinePlan) -> Callable[..., StageCost]:
    """A stage of R1 on eight H200 with other settings of its own."""

    def cost(stage: str, **values: object) -> StageCost:
        overrides = {f"pipeline.r1.{stage}.{key.replace('__', '.')}": value for key, value in values.items()}
        return by_name(plan_pipeline("h200-8", overrides, "r1"))[stage]

    return cost


def by_name(plan: PipelinePlan) -> dict[str, StageCost]:
    return {stage.name: stage for stage in plan.stages}


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_pipeline_fits_its_devices_and_has_a_price(name: str) -> None:
    for pipeline, said in load_profile(name).pipeline.pipelines.items():
        plan = plan_pipeline(name, {}, pipeline)
        assert [stage.name for stage in plan.stages] == [stage.name for stage in said.stages]
        for stage in plan.stages:
            assert stage.fits, stage
            assert (stage.hours > 0) == (stage.kind != "merge_data"), stage
        assert plan.hours == pytest.approx(sum(stage.hours for stage in plan.stages))


def test_a_training_stage_costs_what_the_plan_of_its_settings_says(r1: PipelinePlan) -> None:
    profile = stage_profiles("h200-8", {}, "r1")["reasoning"]
    alone, stage = make_plan(profile).grpo, by_name(r1)["reasoning"]
    assert stage.count == alone.steps == 500
    # Dynamic sampling writes as much again at most; learning and syncing are not done twice.
    assert stage.step_seconds == pytest.approx(alone.step_seconds + alone.generate_seconds)


def test_twice_the_samples_take_twice_the_time(r1: PipelinePlan, changed: Callable[..., StageCost]) -> None:
    once, twice = by_name(r1)["sampled"], changed("sampled", samples=32)
    assert (once.count, twice.count) == (14_000 * 16, 14_000 * 32)
    assert twice.hours == pytest.approx(2 * once.hours, rel=0.05)


def test_larger_batches_wait_less_often_for_their_longest_answer(
    r1: PipelinePlan, changed: Callable[..., StageCost]
) -> None:
    assert changed("measured", batch_size=512).hours > 1.1 * by_name(r1)["measured"].hours


def test_what_may_be_kept_is_trained_on(r1: PipelinePlan, changed: Callable[..., StageCost]) -> None:
    traces = 349_317
    assert by_name(r1)["union"].count == traces + 14_000 * 4
    assert changed("union", data=["sampled"]).count == 14_000 * 4
    assert changed("sft", data="traces").tokens < by_name(r1)["sft"].tokens


def test_every_checkpoint_that_is_judged_costs_the_same(changed: Callable[..., StageCost]) -> None:
    each = 30 * 64 + 500 * 4 + 198 * 8 + PROBLEMS["lcb"] * 16
    assert changed("judged", models=["base"]).count == each
    assert changed("judged", models=["base", "final"]).count == 2 * each
    assert changed("judged", models=["base"], evaluation__most=10).count == 10 * (64 + 4 + 8 + 16)


def test_the_embedded_world_is_judged_by_level() -> None:
    stage = by_name(plan_pipeline("cpu-tiny", {}, "r1-zero"))["judged"]
    profile = pipeline_profile("cpu-tiny", {}, "r1-zero")
    how, levels = profile.evaluation, len(profile.data.heldout_levels)
    assert stage.count == 2 * levels * how.problems_per_level * (how.samples + 1)  # and one greedy answer


def test_benchmarks_have_as_many_problems_as_the_plan_counts() -> None:
    assert {name: benchmark.rows for name, benchmark in BENCHMARKS.items()} == PROBLEMS | {"lcb": None}


def test_a_stage_that_does_not_fit_says_what_to_write() -> None:
    text = render_pipeline(plan_pipeline("h200-8", {"sft.gradient_checkpointing": False}, "distill"))
    assert "DOES NOT FIT into 141.0 GB" in text
    assert "sft.gradient_checkpointing=true" in text


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["r1kit", "plan", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_the_command_prices_a_pipeline_with_changes(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = ("--profile", "h200-8", "--pipeline", "distill")
    assert call(monkeypatch, *asked, "--set", "sft.num_train_epochs=1") == 0
    text = capsys.readouterr().out
    assert "distilled    sft" in text
    assert "in all" in text
    assert call(monkeypatch, *asked, "--set", "sft.max_steps=10", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["count"] == 10  # in place of the file's epochs
    assert call(monkeypatch, "--profile", "h200-8", "--pipeline", "r2") == 2
    assert "r1" in capsys.readouterr().err


def test_a_length_in_steps_takes_the_place_of_the_files_epochs_but_not_of_ones_own() -> None:
    assert "num_train_epochs" not in load_profile("h200-8", {"grpo.max_steps": 50}).grpo.trl
    with pytest.raises(SettingsError, match="max_steps is 50 and wins"):
        load_profile("h200-8", {"grpo.max_steps": 50, "grpo.num_train_epochs": 1})
