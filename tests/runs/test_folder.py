"""Run folders: ids, manifest, and errors that name the nearest known id."""

from __future__ import annotations

import json
import re

import pytest

from r1kit.runs import folder
from r1kit.runs.folder import RunError, create_run, list_runs, new_run_id, open_run


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def a_run(profile="cpu-tiny", **options):
    return create_run(profile, argv=["r1kit", "run"], seeds={"data": 1}, **options)


@pytest.mark.parametrize(
    ("profile", "slug"), [("cpu-tiny", "cpu-tiny"), ("/a/b/My Profile", "my-profile"), ("///", "run")]
)
def test_a_run_id_is_time_profile_and_four_hex_digits(profile, slug):
    assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{slug}-[0-9a-f]{{4}}", new_run_id(profile))


def test_the_manifest_says_what_the_run_was_started_with(runs_folder):
    run = a_run(overrides={"sft.learning_rate": 1e-3}, devices=["cpu"])
    written = json.loads((runs_folder / run.run_id / "run.json").read_text())
    assert written["run_id"] == run.run_id
    assert written["profile"] == "cpu-tiny"
    assert written["argv"] == ["r1kit", "run"]
    assert written["seeds"] == {"data": 1}
    assert written["overrides"] == {"sft.learning_rate": 1e-3}
    assert written["devices"] == ["cpu"]
    assert written["borrowed"] == {}
    assert written["pipeline"] is None
    assert set(written["git"]) == {"commit", "dirty"}
    assert written["versions"]["papermill"]
    assert written["python"]
    assert written["platform"]


def test_borrowed_stages_are_added_one_by_one():
    run = a_run()
    run.update_manifest(borrowed={"01_data": "x"})
    run.update_manifest(borrowed={"02_sft": "y"}, note=1)
    assert run.manifest["borrowed"] == {"01_data": "x", "02_sft": "y"}
    assert run.manifest["note"] == 1


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert folder.git_state(tmp_path) == {"commit": None, "dirty": None}


def test_an_uninstalled_package_has_no_version():
    assert folder.package_versions(["no-such-package-r1"]) == {"no-such-package-r1": None}


def test_a_run_opens_by_its_id_and_by_newest():
    first, second = a_run(run_id="first-a"), a_run(run_id="second-b")
    first.update_manifest(created="2026-01-01T00:00:00+00:00")
    second.update_manifest(created="2026-01-02T00:00:00+00:00", profile="h200-1")
    assert open_run("first-a") == first
    assert open_run("newest") == second
    assert list_runs() == [second, first]


def test_an_unknown_run_names_the_nearest():
    a_run(run_id="20260101-000000-cpu-tiny-abcd")
    with pytest.raises(RunError, match="did you mean '20260101-000000-cpu-tiny-abcd'"):
        open_run("20260101-000000-cpu-tiny-abce")


def test_without_any_run_the_error_says_so():
    with pytest.raises(RunError, match="there are no runs yet"):
        open_run("newest")


@pytest.mark.parametrize("run_id", ["", "007", "../x", "a/b", ".hidden", "a b", "x" * 200, None, 7, "a\n"])
def test_an_id_that_cannot_name_a_folder_or_looks_like_a_number_is_refused(run_id):
    with pytest.raises(RunError, match="cannot be a run id"):
        open_run(run_id)


def test_an_existing_id_is_not_made_again():
    a_run(run_id="twice-x")
    with pytest.raises(RunError, match="exists already"):
        a_run(run_id="twice-x")


def test_two_runs_of_one_second_get_different_folders(monkeypatch):
    taken = iter(["20260101-000000-cpu-tiny-0000"] * 2 + ["20260101-000000-cpu-tiny-0001"])
    monkeypatch.setattr(folder, "new_run_id", lambda _profile: next(taken))
    assert a_run().run_id != a_run().run_id


def test_a_stage_name_cannot_lead_out_of_the_run():
    run = a_run()
    assert run.stage("04_grpo").is_dir()
    with pytest.raises(RunError, match="not a stage name"):
        run.stage("../other")
