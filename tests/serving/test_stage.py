"""A lesson asks for a server: it gets the profile's, or a word that there is none, from the same cell."""

from __future__ import annotations

import asyncio

import psutil
import pytest

import r1kit
from r1kit.pipeline.jobs import device_mask
from r1kit.settings import load_profile


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened(profile)`: stage 00 of a new run in tmp_path."""
    monkeypatch.setenv("R1KIT_RUNS", str(tmp_path / "runs"))
    return lambda profile: r1kit.open_stage("00_environment", {"PROFILE": str(profile), "RUN_ID": ""})


def test_without_a_server_the_cell_says_how_to_get_one(opened, capsys):
    run = opened("cpu-tiny")
    server = asyncio.run(run.serve("some/model").ready())
    assert "make setup-cluster" in capsys.readouterr().out
    assert server.urls == []
    assert server.line() == ""
    server.stop()


@pytest.mark.slow
def test_the_server_of_a_stage_ends_with_the_stage(opened, profile_with_server, capsys):
    run = opened(profile_with_server)
    server = asyncio.run(run.serve("some/model").ready())
    assert server.folder == run.folder / "server"
    assert server.line().startswith("server ready: ")
    pids = server.state["pids"]
    run.finish(metrics={}, artifacts={})
    assert not any(map(psutil.pid_exists, pids))


def test_programs_see_the_devices_of_the_layout(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    profile = load_profile("mi350x-8-seed")
    assert device_mask(profile, "grpo")["CUDA_VISIBLE_DEVICES"] == "2,3,4,5,6,7"
    assert device_mask(profile, "sft")["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert device_mask(load_profile("cpu-tiny"), "grpo") == {}
