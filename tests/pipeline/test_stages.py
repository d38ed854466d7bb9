"""Stage names, their order, and what a stage's inputs are."""

from functools import reduce
from operator import getitem

import pytest

from r1kit.pipeline import open_run
from r1kit.pipeline.stages import (
    UnknownStage,
    lesson_hash,
    lesson_stage,
    pipeline_hash,
    pipeline_stages,
    requested_stages,
    runnable_stages,
    select_stages,
)
from r1kit.runs.files import write_json_atomic
from r1kit.runs.results import write_result
from r1kit.settings import load_profile, profile_names
from r1kit.settings.lessons import STAGES


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    return tmp_path


def finish(run, name, settings):
    digest = lesson_hash(name, settings)
    write_result(run.stage(name), stage=name, seconds=1.0, inputs_hash=digest, peak_rss_bytes=1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", [name for name in STAGES if name != "06_pipeline"]),
        ("6", ["06_pipeline"]),
        ("02_sft", ["02_sft"]),
        ("2", ["02_sft"]),
        ("01-03", ["01_data", "02_sft", "03_vllm"]),
        ("05, 00", ["00_environment", "05_evaluation"]),
        ("04,02-04", ["02_sft", "03_vllm", "04_grpo"]),
        ("4b", ["04b_rewards"]),
        ("04-05", ["04_grpo", "04b_rewards", "05_evaluation"]),
    ],
)
def test_stages_are_selected_by_name_number_and_range(text, names):
    assert select_stages(text) == names


def test_a_range_leaves_out_what_the_profile_has_no_settings_for_unless_it_is_named():
    """docs/big-machine.md told to run 03-05 on eight GPUs, which was refused for 04b_rewards."""
    settings = load_profile("mi350x-8")
    assert requested_stages("03-05", settings) == ["03_vllm", "04_grpo", "05_evaluation"]
    assert requested_stages("04b-05", settings) == ["04b_rewards", "05_evaluation"]
    assert requested_stages("04b", settings) == ["04b_rewards"]
    assert (
        requested_stages("", settings)
        == requested_stages("all", settings)
        == requested_stages("00-05", settings)
    )
    assert requested_stages("", settings, "r1") == ["01_data", "06_pipeline"]
    assert "04b_rewards" in requested_stages("03-05", load_profile("cpu-tiny"))


@pytest.mark.parametrize(
    ("text", "part"), [("04_gpro", "04_grpo"), ("09", "there are"), ("04-02", "backwards"), (",", "no stage")]
)
def test_a_wrong_selection_is_explained(text, part):
    with pytest.raises(UnknownStage, match=part):
        select_stages(text)


def test_every_need_comes_before_the_stage_that_needs_it():
    order = list(STAGES)
    for spec in STAGES.values():
        assert all(order.index(need) < order.index(spec.name) for need in spec.needs)


def test_every_knob_that_is_a_setting_stands_in_the_shipped_profile():
    values = load_profile("cpu-tiny").dump()
    for spec in STAGES.values():
        for knob in filter(lambda knob: knob.setting, spec.knobs.values()):
            value = reduce(getitem, knob.setting.split("."), values)
            assert isinstance(value, knob.kind)


def test_a_stage_depends_on_its_settings_and_on_those_before_it():
    before = load_profile("cpu-tiny")
    after = load_profile("cpu-tiny", {"sft.learning_rate": 1e-3})
    changed = [name for name in STAGES if lesson_hash(name, before) != lesson_hash(name, after)]
    assert changed == ["02_sft", "03_vllm", "04_grpo", "04b_rewards", "05_evaluation"]


def test_a_result_counts_only_with_the_inputs_it_was_made_from():
    run, settings = open_run.new_run("cpu-tiny", {})
    folder, digest = run.stage("02_sft"), lesson_hash("02_sft", settings)
    assert not open_run.has_result(folder, digest)
    finish(run, "02_sft", settings)
    assert open_run.has_result(folder, digest)
    other = lesson_hash("02_sft", load_profile("cpu-tiny", {"sft.max_steps": 45}))
    assert not open_run.has_result(folder, other)


def test_what_a_stage_needs_is_borrowed_from_the_newest_equal_run(capsys):
    older, settings = open_run.new_run("cpu-tiny", {}, "older-run")
    finish(older, "01_data", settings)
    run, settings = open_run.new_run("cpu-tiny", {}, "this-run")
    assert open_run.find_or_run(run, lesson_stage("01_data", settings)) == older.stage("01_data")
    assert run.manifest["borrowed"] == {"01_data": "older-run"}
    assert "older-run" in capsys.readouterr().out


def test_an_attempt_with_other_inputs_is_set_aside_not_lost(runs_folder):
    folder = runs_folder / "02_sft"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}\n")
    write_json_atomic(folder / "params.json", {"inputs_hash": "old"})
    assert not open_run.archive_stale(folder, "old")
    assert open_run.archive_stale(folder, "new")
    (aside,) = folder.glob("stale-*")
    assert (aside / "metrics.jsonl").is_file()
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_can_run_the_main_path_and_the_lesson_on_rewards_needs_the_stories(name):
    settings = load_profile(name)
    lesson = ["04b_rewards"] if settings.data.source == "stories" else []
    left_out = {"04b_rewards", "06_pipeline"} - set(lesson)
    assert set(STAGES) - set(runnable_stages(settings)) == left_out
    assert "04_grpo" in runnable_stages(settings)


def test_real_data_depends_on_the_model_whose_tokenizer_measures_it():
    before = load_profile("gpu-small")
    after = load_profile("gpu-small", {"sft.model_name_or_path": "Qwen/Qwen2.5-7B-Instruct"})
    assert lesson_hash("01_data", before) != lesson_hash("01_data", after)


def test_results_of_older_versions_are_still_found():
    """Hashes recorded at commit 6b6e438; they change where a profile's values do, and for no other reason."""
    assert lesson_hash("02_sft", load_profile("cpu-tiny")) == "87f7c3b4af96f444"
    assert lesson_hash("01_data", load_profile("gpu-small")) == "66eff13179dc4062"
    stages = pipeline_stages("cpu-tiny", {}, "r1")
    assert stages["reasoning"].inputs_hash == "3374c87cedad4295"
    assert pipeline_hash("r1", stages) == "ea08b722827d7c6d"
