"""A run is opened with the settings it was started with, and refused where it could not be run to its end."""

import pytest

from r1kit.pipeline import opening
from r1kit.settings import SettingsError


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    return tmp_path


def test_a_run_keeps_its_overrides_and_its_profile(tmp_path):
    opening.new_run("cpu-tiny", {"sft.max_steps": 90}, "kept")
    _, settings = opening.reopen_run("kept", "", {})
    assert settings.sft.trl["max_steps"] == 90
    with pytest.raises(SettingsError, match="no such profile"):
        opening.reopen_run("kept", "h200-9", {})


def test_a_stage_whose_settings_are_left_out_is_refused_before_a_run_is_made(runs_folder):
    """04b_rewards took hours of eight GPUs to come to `programs`, which their profiles do not have."""
    with pytest.raises(SettingsError) as refused:
        opening.new_run("mi350x-8", {}, stages=["00_environment", "04b_rewards"])
    assert "programs" in str(refused.value)
    assert "Leave that stage out: --stages 00_environment" in str(refused.value)
    with pytest.raises(SettingsError, match="04_grpo cannot run without it"):
        opening.new_run("cpu-tiny", {"grpo.collapse": None}, stages=["04_grpo"])
    assert list(runs_folder.iterdir()) == []


def test_a_notebook_opened_alone_is_refused_too():
    from r1kit.pipeline.stage import open_stage

    run, _ = opening.new_run("mi350x-8", {}, stages=["00_environment"])
    for number in ("", run.run_id):
        with pytest.raises(SettingsError, match="04b_rewards cannot run without it"):
            open_stage("04b_rewards", {"PROFILE": "mi350x-8", "RUN_ID": number})
