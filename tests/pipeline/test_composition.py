"""Composed stages: equal work is done once, across pipelines and runs, and a result is what ends a stage."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from r1kit.pipeline import jobs, open_run, stage
from r1kit.pipeline.run import starting_point
from r1kit.pipeline.stages import lesson_hash, pipeline_stages
from r1kit.runs import status
from r1kit.runs.launch import Job, JobFailed
from r1kit.runs.results import read_result, stage_folders, summarise, write_result
from r1kit.settings import SettingsError
from r1kit.settings.profile import CONFIG_ROOT

PIPELINES = """\
pipelines:
  short:
    stages:
      - {name: begin, kind: sft, set: {sft.max_steps: 20}}
      - {name: both, kind: merge_data, data: [traces]}
      - {name: end, kind: sft, data: both, set: {sft.max_steps: 30}}
  other:
    stages:
      - {name: first, kind: sft, set: {sft.max_steps: 20}}
      - {name: end, kind: grpo, model: first}
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(open_run, "detect_device", lambda: ("cpu", "no device is asked for"))
    folder = tmp_path / "profiles" / "tiny"
    shutil.copytree(CONFIG_ROOT / "cpu-tiny", folder)
    (folder / "pipeline.yaml").write_text(PIPELINES)
    return str(folder)


@pytest.fixture
def programs(monkeypatch):
    """Programs that end at once, well, after writing what theirs would; `broken` names those that fail."""
    broken, started = set(), []

    class Ended(Job):
        def poll(self):
            return 1 if self.folder.name in broken else 0

    def launch(module, folder, **options):
        started.append(folder.name)
        for made in ("model", "data"):
            (folder / made).mkdir(exist_ok=True)
        return Ended(folder, module)

    monkeypatch.setattr(jobs, "launch", launch)
    return started, broken


def finish_data(run, settings):
    folder = run.stage("01_data")
    names = ("model", "tokenizer", "traces", "prompts", "heldout")
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    digest = lesson_hash("01_data", settings)
    write_result(folder, stage="01_data", seconds=1, inputs_hash=digest, artifacts={n: n for n in names})


def opened(profile, run_id, pipeline="short", **parameters):
    run, settings = open_run.new_run(profile, {}, run_id, pipeline=pipeline)
    finish_data(run, settings)
    return reopened(profile, run_id, pipeline, **parameters)


def reopened(profile, run_id, pipeline="short", **parameters):
    values = {"PROFILE": profile, "RUN_ID": run_id, "PIPELINE": pipeline, "ALSO": []}
    return stage.open_stage("06_pipeline", values | parameters)


def hashes(*pipeline):
    return {name: stage.inputs_hash for name, stage in pipeline_stages(*pipeline).items()}


def test_names_do_not_decide_what_a_stage_makes(profile):
    short = hashes(profile, {}, "short")
    other = hashes(profile, {}, "other")
    assert short["begin"] == other["first"]
    assert len({*short.values(), *other.values()}) == 4


def test_a_change_reaches_the_stages_that_stand_on_it(profile):
    before = hashes(profile, {}, "other")
    for change, changed in (
        ({"pipeline.other.first.sft.max_steps": 21}, {"first", "end"}),
        ({"pipeline.other.end.grpo.max_steps": 21}, {"end"}),
        ({"data.seed": 5}, {"first", "end"}),
        ({"grpo.collapse.max_steps": 3}, set()),
    ):
        after = hashes(profile, change, "other")
        assert {name for name in before if before[name] != after[name]} == changed, change


def test_a_pipeline_runs_and_is_recorded_stage_by_stage(profile, programs, capsys):
    run = opened(profile, "my-run")
    pipeline = run.pipeline("short")
    assert "to do" in str(pipeline)
    asyncio.run(pipeline.run())
    assert programs[0] == ["begin", "both", "end"]
    result = read_result(run.folder / "end")
    assert result["stage"] == "06_pipeline/end"
    parents = {(p["as"], p["run"], p["stage"]) for p in result["origin"]["parents"]}
    assert parents == {("model", "my-run", "01_data"), ("traces", "my-run", "06_pipeline/both")}
    assert set(result["origin"]["code"]) == {"commit", "dirty"}
    assert "to do" not in str(pipeline)
    told = json.loads(json.dumps(summarise(run.run)))
    assert [name for name in told["stages"] if "/" in name] == [
        "06_pipeline/begin",
        "06_pipeline/both",
        "06_pipeline/end",
    ]
    assert told["pipeline"] == "short"


def test_every_program_reads_the_paths_of_what_it_stands_on(profile, programs):
    from r1kit.training.program import read_job

    run = opened(profile, "my-run")
    asyncio.run(run.pipeline("short").run())
    job = read_job(run.folder / "end" / "resolved.yaml")
    assert job.inputs["traces"] == str(run.folder / "both" / "data")
    assert job.inputs["model"] == str(run.run.path / "01_data" / "model")
    assert job.settings["sft"]["max_steps"] == 30


def test_what_was_done_is_not_done_again(profile, programs, capsys):
    asyncio.run(opened(profile, "my-run").pipeline("short").run())
    asyncio.run(reopened(profile, "my-run").pipeline("short").run())
    assert len(programs[0]) == 3


def test_equal_stages_of_other_runs_are_borrowed(profile, programs):
    asyncio.run(opened(profile, "older").pipeline("short").run())
    run = opened(profile, "newer", "other")
    pipeline = run.pipeline("other")
    asyncio.run(pipeline.run())
    assert programs[0] == ["begin", "both", "end", "end"]
    assert run.run.manifest["borrowed"] == {"06_pipeline/first": "older/06_pipeline/begin"}
    assert pipeline.state("first") == "done in run older"
    members = {member["path"] for member in pipeline.lineage()}
    assert "older/06_pipeline/begin" in members
    assert "newer/06_pipeline/end" in members


def test_a_pipeline_beside_the_notebooks_own_has_folders_of_its_own(profile, programs):
    run = opened(profile, "my-run")
    asyncio.run(run.pipeline("short").run())
    asyncio.run(run.pipeline("other").run())
    assert (
        read_result(run.folder / "end")["inputs_hash"] != read_result(run.folder / "other.end")["inputs_hash"]
    )
    names = [folder.name for folder in stage_folders(run.run)]
    assert "other.end" in names
    assert "other.first" not in names  # shared with `begin`


def test_a_failed_stage_says_so_and_the_next_attempt_goes_on_there(profile, programs):
    started, broken = programs
    run = opened(profile, "my-run")
    broken.add("both")
    with pytest.raises(JobFailed):
        asyncio.run(run.pipeline("short").run())
    assert status.read(run.folder / "both")["state"] == "failed"
    assert read_result(run.folder / "both") is None
    assert starting_point(run.folder) == "1 of its stages are done"
    broken.clear()
    asyncio.run(reopened(profile, "my-run").pipeline("short").run())
    assert started == ["begin", "both", "both", "end"]


def test_a_changed_stage_sets_aside_itself_and_not_what_is_finished(profile, programs):
    run = opened(profile, "my-run")
    asyncio.run(run.pipeline("short").run())
    run.run.update_manifest(overrides={"pipeline.short.end.sft.max_steps": 31})
    again = reopened(profile, "my-run")
    asyncio.run(again.pipeline("short").run())
    assert programs[0] == ["begin", "both", "end", "end"]
    assert list((run.folder / "end").glob("stale-*/result.json"))
    assert [folder.name for folder in stage_folders(run.run)].count("end") == 1


def test_a_stage_is_not_started_before_what_it_stands_on(profile, programs):
    pipeline = opened(profile, "my-run").pipeline("short")
    with pytest.raises(FileNotFoundError, match="both of short is not done"):
        pipeline.start("end")


def test_a_run_for_a_pipeline_makes_its_data_with_the_pipelines_settings(profile):
    text = PIPELINES.replace("  short:\n", "  short:\n    set: {data.traces: 77}\n")
    Path(profile, "pipeline.yaml").write_text(text)
    open_run.new_run(profile, {}, "my-run", pipeline="short")
    _, settings = open_run.reopen_run("my-run", "", {})
    assert settings.data.traces == 77
    _, plain = open_run.new_run(profile, {}, "plain")
    assert plain.data.traces != 77


def test_pipelines_behind_a_comma_are_checked_now_and_run_beside_the_first(profile, monkeypatch):
    from r1kit.pipeline import engine
    from r1kit.pipeline import run as running

    run, settings = open_run.new_run(profile, {}, "my-run", pipeline="short,other")
    assert (run.manifest["pipeline"], run.manifest["beside"]) == ("short", ["other"])
    given = {}
    monkeypatch.setattr(
        engine, "execute", lambda source, target, parameters, **keys: given.update(parameters)
    )
    running.run_notebook(open_run.lesson_in_run(run, "06_pipeline", settings), run.stage("06_pipeline"), run)
    assert (given["PIPELINE"], given["ALSO"]) == ("short", ["other"])
    with pytest.raises(SettingsError, match="Did you mean `other`"):
        open_run.new_run(profile, {}, "other-run", pipeline="short,othr")
