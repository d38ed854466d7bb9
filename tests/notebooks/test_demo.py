"""The demo, whole: notebooks 00 to 05 under cpu-tiny, without a network, and what must be true afterwards."""

import json

import nbformat
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


@pytest.fixture(scope="session")
def demo(runs, without_network):
    """The finished demo: (summary, printed text, run folder)."""
    code, output = runs.run("run", "--stages", "00-05", "--run-id", "demo-run", prefix=without_network)
    print(output)  # a failing demo is read here
    assert code == 0, output[-3000:]
    return runs.summary("demo-run"), output, runs.folder / "demo-run"


def test_every_stage_completed(demo):
    summary, _, _ = demo
    assert summary["status"] == "completed"
    assert {name: stage["status"] for name, stage in summary["stages"].items()} == {
        name: "completed"
        for name in (
            "00_environment",
            "01_data",
            "02_sft",
            "03_vllm",
            "04_grpo",
            "04b_rewards",
            "05_evaluation",
        )
    }


def test_the_base_model_cannot_solve_the_problems(demo):
    assert demo[0]["pass@1"]["base"]["value"] < 0.15


def test_imitation_solves_some_of_them(demo):
    assert 0.35 <= demo[0]["pass@1"]["sft"]["value"] <= 0.75


def test_grpo_lifts_the_student_clearly_above_imitation(demo):
    sft, grpo = demo[0]["pass@1"]["sft"], demo[0]["pass@1"]["grpo"]
    assert grpo["value"] >= 0.80
    assert grpo["value"] >= sft["value"] + 0.15
    assert grpo["low"] > sft["high"], "the 95% intervals must not touch"


def test_the_claim_rests_on_enough_samples(demo):
    for entry in demo[0]["pass@1"].values():
        assert entry["problems"] >= 200
        assert entry["samples"] >= 4
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_the_table_stands_in_order_of_training(demo):
    assert list(demo[0]["pass@1"]) == ["base", "sft", "grpo"]


def test_the_wrong_learning_rate_collapses_as_the_lesson_says(demo):
    metrics = demo[0]["stages"]["04_grpo"]["metrics"]
    assert metrics["collapse_accuracy_last"] < 0.5 * metrics["accuracy_first"]
    assert metrics["accuracy_last"] > metrics["accuracy_first"]


def test_a_naive_reward_rises_while_the_truth_falls_and_ours_repairs_it(demo):
    metrics = demo[0]["stages"]["04b_rewards"]["metrics"]
    assert metrics["hacked_reward_last"] > metrics["hacked_reward_first"] + 0.15
    assert metrics["hacked_truth_first"] > 0.25
    assert metrics["hacked_truth_last"] < 0.15
    assert metrics["repaired_truth_last"] > metrics["repaired_truth_first"] + 0.2


def test_memory_stays_under_four_gigabytes(demo):
    assert 0 < max(stage["peak_rss_bytes"] for stage in demo[0]["stages"].values()) < 4e9


def test_it_says_what_it_does_while_it_does_it(demo):
    output = demo[1]
    for expected in ("02_sft", "loss", "04_grpo", "reward", "left", "pass@1", "demo-run"):
        assert expected in output


@pytest.mark.parametrize("stage", ["01_data", "02_sft", "04_grpo"])
def test_a_training_stage_leaves_every_file_of_the_contract(demo, stage):
    folder = demo[2] / stage
    files = [
        "params.json",
        "resolved.yaml",
        "notebook.ipynb",
        "train.log",
        "metrics.jsonl",
        "status.json",
        "result.json",
    ]
    assert [name for name in files if not (folder / name).is_file()] == []
    assert (folder / "checkpoints").is_dir()
    assert json.loads((folder / "status.json").read_text())["job"]["clean"]


def test_rollouts_are_kept(demo):
    import pandas as pd

    first = pd.read_parquet(min((demo[2] / "04_grpo" / "rollouts").glob("*.parquet")))
    assert {"step", "prompt", "completion", "solution", "level", "reward", "advantage"} <= set(first.columns)


def test_executed_notebooks_show_figures_and_no_errors(demo):
    for path in sorted(demo[2].glob("*/notebook.ipynb")):
        outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        if path.parent.name not in ("00_environment",):
            assert any("image/png" in output.get("data", {}) for output in outputs), path


def test_the_manifest_says_what_ran(demo):
    manifest = json.loads((demo[2] / "run.json").read_text())
    assert manifest["profile"] == "cpu-tiny"
    assert manifest["versions"]["trl"]
    assert manifest["devices"][0]["reason"]
    assert manifest["sandbox"]["tier"]


def test_resuming_a_finished_run_starts_nothing(demo, runs):
    before = {path: path.stat().st_mtime_ns for path in demo[2].rglob("result.json")}
    code, output = runs.run("run", "--resume", "demo-run")
    assert code == 0
    assert output.count("unchanged") == 7
    assert before == {path: path.stat().st_mtime_ns for path in demo[2].rglob("result.json")}


def test_status_prints_the_table_and_json(demo, runs):
    code, output = runs.run("status", "demo-run")
    assert code == 0
    assert "grpo" in output
    code, output = runs.run("status", "demo-run", "--json")
    assert json.loads(output)["pass@1"] == demo[0]["pass@1"]


def test_a_notebook_alone_stands_on_the_newest_run_with_equal_settings(demo, runs, tmp_path):
    done = runs.papermill("notebooks/03_vllm.ipynb", str(tmp_path / "out.ipynb"), "-p", "PROMPTS", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "out.ipynb").read_text()
    assert "02_sft comes from run demo-run" in text


def test_a_mistyped_notebook_parameter_is_named(runs, tmp_path):
    done = runs.papermill("notebooks/03_vllm.ipynb", str(tmp_path / "out.ipynb"), "-p", "PROMTS", "4")
    assert done.returncode != 0
    assert "PROMTS" in done.stderr
    assert "PROMPTS" in done.stderr.replace("PROMTS", "")
