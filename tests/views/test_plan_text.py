"""The plan in words and beside a run; the doctor's findings as programs read them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from r1kit.cli.main import main
from r1kit.machine.plan import make_plan
from r1kit.runs import jsonl
from r1kit.runs.files import write_json_atomic
from r1kit.settings import load_profile
from r1kit.settings.profile import CONFIG_ROOT
from r1kit.views.plan import compare, duration, measured, render, size


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["r1kit", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def run_folder(path: Path, seconds: float) -> None:
    """A run whose SFT took `seconds` a step after a slow first one."""
    stage = path / "02_sft"
    stage.mkdir(parents=True)
    rows = [{"step": step, "seconds": 10 + seconds * step} for step in range(1, 31)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json_atomic(stage / "status.json", {"state": "completed", "job": {"peak_rss_bytes": 1_100_000_000}})
    write_json_atomic(path / "run.json", {"run_id": path.name, "profile": "cpu-tiny"})


def test_a_plan_is_printed_with_hours_and_both_kinds_of_mfu() -> None:
    text = render(make_plan(load_profile("mi350x-8-seed")))
    for part in ("15.0 h", "MFU 9.1% causal, 9.6% with full attention", "packing gains"):
        assert part in text


def test_a_plan_that_does_not_fit_says_so_and_what_to_write() -> None:
    text = render(make_plan(load_profile("h200-8", {"sft.gradient_checkpointing": False})))
    assert "DOES NOT FIT" in text
    assert "nearest change that fits: sft.gradient_checkpointing=true" in text


def test_measured_steps_leave_the_warm_up_out(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 0.3)
    found = measured(tmp_path / "run")
    assert found == {"sft.step_seconds": pytest.approx(0.3), "sft.memory": 1_100_000_000}


def test_a_plan_stands_beside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    plan = make_plan(load_profile("cpu-tiny"))
    run_folder(tmp_path / "a-run", 1.1 * plan.sft.step_seconds)
    found = measured(tmp_path / "a-run")
    rows = {row["quantity"]: row["ratio"] for row in compare(plan, found)}
    assert rows["sft.step_seconds"] == pytest.approx(1.1)
    assert 0.8 < rows["sft.memory"] < 1.2
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    assert call(monkeypatch, "plan", "--against", "a-run") == 0
    assert "1.10" in capsys.readouterr().out
    assert call(monkeypatch, "plan", "--against", "a-run", "--json") == 0
    assert {row["quantity"] for row in json.loads(capsys.readouterr().out)["rows"]} == set(rows)


def test_a_run_is_compared_with_a_plan_for_the_speed_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    profile = load_profile("cpu-tiny")
    run_folder(tmp_path / "a-run", 2 * make_plan(profile).sft.step_seconds)
    half = {"metrics": {"gflops": profile.machine.reference_gflops / 2}}
    write_json_atomic(tmp_path / "a-run" / "00_environment" / "result.json", half)
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    assert call(monkeypatch, "plan", "--against", "a-run", "--json") == 0
    ratios = {row["quantity"]: row["ratio"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert ratios["sft.step_seconds"] == pytest.approx(1)


def test_a_runs_own_profile_and_changes_are_what_it_is_held_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run_folder(tmp_path / "a-run", 0.2)
    manifest = {
        "run_id": "a-run",
        "profile": "cpu-tiny",
        "overrides": {"sft.per_device_train_batch_size": 34},
    }
    write_json_atomic(tmp_path / "a-run" / "run.json", manifest)
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path))
    predicted = []
    for more in ([], ["--set", "sft.per_device_train_batch_size=17"]):
        assert call(monkeypatch, "plan", "--against", "a-run", "--json", *more) == 0
        (row,) = [
            r for r in json.loads(capsys.readouterr().out)["rows"] if r["quantity"] == "sft.step_seconds"
        ]
        predicted.append(row["predicted"])
    assert predicted[0] == pytest.approx(2 * predicted[1])


def test_memory_on_gpus_is_that_of_the_fullest(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 0.2)
    row = {"gpus": [{"index": 0, "memory_used": 40e9}, {"index": 1, "memory_used": 41e9}, {"index": 2}]}
    jsonl.append(tmp_path / "run" / "02_sft" / "system.jsonl", row)
    assert measured(tmp_path / "run")["sft.memory"] == 41e9


def test_settings_of_a_plan_can_be_changed_and_are_checked(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert (
        call(monkeypatch, "plan", "--profile", "mi350x-8", "--json", "--set", "sft.num_train_epochs=1") == 0
    )
    one = json.loads(capsys.readouterr().out)
    assert call(monkeypatch, "plan", "--profile", "mi350x-8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sft"]["hours"] == pytest.approx(
        5 * one["sft"]["hours"], rel=0.01
    )
    assert call(monkeypatch, "plan", "--set", "sft.lerning_rate=1") == 2
    assert "learning_rate" in capsys.readouterr().err


def test_findings_have_exactly_the_names_that_programs_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(CONFIG_ROOT / "mi350x-8", folder)
    text = (folder / "sft.yaml").read_text().replace("eos_token: <|im_end|>", "eos_token: <|endoftext|>")
    (folder / "sft.yaml").write_text(text)
    assert call(monkeypatch, "doctor", "--profile", str(folder), "--settings-only", "--json") == 2
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert list(finding) == ["rule", "severity", "file", "key", "found", "message", "fix"]
    assert finding["rule"] == "answers_end_where_the_template_ends"
    assert finding["severity"] == "error"
    assert Path(finding["file"]).name == "sft.yaml"
    assert finding["key"] == "eos_token"
    assert "<|im_end|>" in finding["fix"]


def test_warnings_alone_do_not_fail_and_a_clean_profile_has_no_findings(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert call(monkeypatch, "doctor", "--profile", "mi350x-8-seed", "--settings-only") == 0
    shown = capsys.readouterr().out
    assert "[WARNING] packed_traces_stay_whole" in shown
    assert "0 errors" in shown
    assert call(monkeypatch, "doctor", "--profile", "mi350x-8", "--settings-only", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"findings": []}


def test_the_whole_doctor_names_the_warnings_too(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    call(monkeypatch, "doctor", "--profile", "mi350x-8-seed")
    shown = capsys.readouterr().out
    assert "[WARN] packed_traces_stay_whole: found " in shown
    assert "sft.yaml" in shown


def test_an_unknown_profile_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert call(monkeypatch, "doctor", "--profile", "mi350-8", "--settings-only", "--json") == 2
    assert "mi350x-8" in capsys.readouterr().err


def test_sizes_and_durations_read_as_people_write_them() -> None:
    assert size(28.6e9) == "28.6 GB"
    assert size(3.1e6) == "3.1 MB"
    assert duration(1.94) == "1.9 s"
    assert duration(600) == "10 min"
    assert duration(54_000) == "15.0 h"
