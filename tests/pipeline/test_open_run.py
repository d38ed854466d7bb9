"""A run is opened with the settings it was started with, and refused where it could not be run to its end."""

import pytest

from r1kit.pipeline import open_run
from r1kit.settings import SettingsError, load_profile
from r1kit.settings.profile import profile_names
from tests.settings.test_stages_of_length import described


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    return tmp_path


def test_a_run_keeps_its_overrides_and_its_profile(tmp_path):
    open_run.new_run("cpu-tiny", {"sft.max_steps": 90}, "kept")
    _, settings = open_run.reopen_run("kept", "", {})
    assert settings.sft.trl["max_steps"] == 90
    with pytest.raises(SettingsError, match="no such profile"):
        open_run.reopen_run("kept", "h200-9", {})


def test_a_stage_whose_settings_are_left_out_is_refused_before_a_run_is_made(runs_folder):
    """04b_rewards took hours of eight GPUs to come to `programs`, which their profiles do not have."""
    with pytest.raises(SettingsError) as refused:
        open_run.new_run("mi350x-8", {}, stages=["00_environment", "04b_rewards"])
    assert "programs" in str(refused.value)
    assert "Leave that stage out: --stages 00_environment" in str(refused.value)
    with pytest.raises(SettingsError, match="04_grpo cannot run without it"):
        open_run.new_run("cpu-tiny", {"grpo.collapse": None}, stages=["04_grpo"])
    assert list(runs_folder.iterdir()) == []


@pytest.mark.parametrize("profile", profile_names())
def test_the_failure_on_purpose_can_run_under_every_profile(profile):
    """Of five steps there is no room for ten of warm-up: 04_grpo stopped there, after the real training."""
    settings = load_profile(profile)
    open_run.check_stages(settings, ["04_grpo"])
    changed = load_profile(profile, settings.grpo.failure()).grpo
    assert changed.trl["learning_rate"] == settings.grpo.collapse.learning_rate
    assert changed.trl["warmup_steps"] < changed.trl["max_steps"] == settings.grpo.collapse.max_steps


@pytest.mark.parametrize("name", ["mi350x-8", "h200-8", "r1-zero-7b"])
def test_it_can_run_with_stages_of_length_too(name):
    settings = load_profile(name, described(name))
    open_run.check_stages(settings, ["04_grpo"])
    assert settings.grpo.failure()["grpo.max_completion_length"] == 8192


def test_a_failure_that_could_not_run_is_refused_before_the_training_that_comes_first(runs_folder):
    long = {"grpo.collapse.max_steps": 50, "grpo.save_steps": 100}
    open_run.new_run("gpu-small", long, "other", stages=["02_sft"])
    with pytest.raises(SettingsError, match="less than 50"):
        open_run.new_run("gpu-small", long, stages=["04_grpo"])
    assert [folder.name for folder in runs_folder.iterdir()] == ["other"]


def test_a_notebook_opened_alone_is_refused_too():
    from r1kit.pipeline.stage import open_stage

    run, _ = open_run.new_run("mi350x-8", {}, stages=["00_environment"])
    for number in ("", run.run_id):
        with pytest.raises(SettingsError, match="04b_rewards cannot run without it"):
            open_stage("04b_rewards", {"PROFILE": "mi350x-8", "RUN_ID": number})


def test_the_lesson_on_rewards_is_refused_before_what_comes_first_too(runs_folder):
    """It trained for minutes and then failed on sft.yaml, which nobody had touched."""
    short = {"grpo.programs.sft_steps": 6}
    with pytest.raises(SettingsError) as refused:
        open_run.new_run("cpu-tiny", short, stages=["02_sft", "04b_rewards"])
    assert "04b_rewards" in refused.value.problems[0].message
    assert refused.value.problems[0].key == "warmup_steps"
    assert list(runs_folder.iterdir()) == []
