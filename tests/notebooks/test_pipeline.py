"""A composed training as a user starts it, from one command to its table and its lineage."""

import json

import nbformat
import pytest

from r1kit.settings import yaml_dump

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

SFT = {"kind": "sft", "set": {"sft.max_steps": 6}}
# Models of a few steps are never right: a band from 0 keeps all prompts, and sampling would keep nothing.
ASK = {"lowest": 0.0, "highest": 1.0, "prompts": 16, "samples": 2, "max_new_tokens": 8}
STAGES = [
    {"name": "cold", **SFT},
    {"name": "again", "kind": "merge_data", "data": ["traces"]},
    {"name": "sft", "data": "again", **SFT},
    {"name": "asked", "kind": "pass_rate", "model": "sft", **ASK},
    {"name": "final", "kind": "grpo", "model": "sft", "data": "asked"},
]
CHANGES = {"evaluation.samples": 2, "evaluation.k": [1], "grpo.max_steps": 4}
PIPELINES = {
    name: {
        "about": "imitation and reinforcement",
        "set": CHANGES,
        "stages": [*STAGES, {"name": "judged", "kind": "evaluate", "models": models}],
    }
    for name, models in {"small": ["base", "cold", "sft", "final"], "beside": ["cold", "final"]}.items()
}
NAMES = [*(stage["name"] for stage in STAGES), "judged"]


@pytest.fixture(scope="module")
def composed(runs, short_profile):
    """The finished run: (summary, printed text, run folder)."""
    (short_profile / "pipeline.yaml").write_text(yaml_dump({"pipelines": PIPELINES}))
    options = ("--profile", str(short_profile), "--pipeline", "small", "--run-id", "composed")
    code, output = runs.run("run", *options)
    assert code == 0, output[-3000:]
    return runs.summary("composed"), output, runs.folder / "composed"


def test_the_run_names_its_pipeline_and_lists_every_composed_stage(composed):
    summary = composed[0]
    assert (summary["pipeline"], summary["status"]) == ("small", "completed")
    stages = ["01_data", "06_pipeline", *(f"06_pipeline/{name}" for name in NAMES)]
    assert {name: stage["status"] for name, stage in summary["stages"].items()} == dict.fromkeys(
        stages, "completed"
    )


def test_pass_at_1_stands_in_order_of_training(composed):
    assert list(composed[0]["pass@1"]) == ["base", "cold", "sft", "final"]


@pytest.mark.parametrize("name", NAMES)
def test_a_composed_stage_leaves_the_files_of_the_contract(composed, name):
    folder = composed[2] / "06_pipeline" / name
    for file in ("params.json", "resolved.yaml", "train.log", "metrics.jsonl", "status.json", "result.json"):
        assert (folder / file).is_file(), file


def test_the_lesson_shows_its_figures_and_no_error(composed):
    notebook = nbformat.read(composed[2] / "06_pipeline" / "notebook.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4


def test_the_lineage_leads_from_every_checkpoint_to_the_data(composed, runs):
    code, output = runs.run("status", "composed", "--lineage", "--json")
    assert code == 0
    members = {member["stage"]: member for member in json.loads(output)}
    assert set(members) == {"01_data", *(f"06_pipeline/{name}" for name in NAMES)}
    final = {(p["as"], p["stage"]) for p in members["06_pipeline/final"]["parents"]}
    assert final == {("model", "06_pipeline/sft"), ("prompts", "06_pipeline/asked")}
    for member in members.values():
        assert all(len(digest) == 16 for digest in member["content"].values())
    _, text = runs.run("status", "composed", "--lineage")
    assert "06_pipeline/final  grpo" in text


def test_a_finished_pipeline_is_not_run_again(composed, runs):
    code, output = runs.run("run", "--resume", "composed")
    assert code == 0
    assert output.count("unchanged") == 2


def test_prompts_of_a_measured_difficulty_are_what_the_curriculum_could_pool(composed):
    from r1kit.data import datasets

    chosen = datasets.load(composed[2] / "06_pipeline" / "asked" / "data")
    assert "pass_rate" in chosen.column_names
    assert composed[0]["stages"]["06_pipeline/asked"]["metrics"]["kept"] == len(chosen) == 16


def test_another_pipeline_is_drawn_beside_the_lessons_own(composed, runs, short_profile):
    """ALSO of the notebook; what both have in common is there already."""
    output = runs.folder / "also.ipynb"
    given = ("-p", "PROFILE", str(short_profile), "-p", "RUN_ID", "composed", "-p", "PIPELINE", "small")
    done = runs.papermill("notebooks/06_pipeline.ipynb", str(output), *given, "-y", "ALSO: [beside]")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = composed[2] / "06_pipeline"
    assert sorted(path.parent.name for path in folder.glob("beside.*/result.json")) == ["beside.judged"]
    printed = str([cell.get("outputs") for cell in nbformat.read(output, 4).cells])
    assert "beside.judged (6 of 6): done in" in printed
    scores = json.loads((folder / "result.json").read_text())["pass@1"]
    assert [name for name in scores if name.startswith("beside.")] == ["beside.cold", "beside.final"]
    assert list(runs.summary("composed")["pass@1"])[:4] == ["base", "cold", "sft", "final"]
