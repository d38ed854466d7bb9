"""The machine's speed as a CPU training writes it down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from r1kit.machine.layer_speed import LayerSpeed, of_rows
from r1kit.runs import metrics
from r1kit.training import speed_log
from r1kit.training.speed_log import SpeedLog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock to turn by hand, and a layer whose speed is known."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(speed_log.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(speed_log, "measure_layer", lambda seconds: LayerSpeed(50.0, 0.002))
    return now


def steps(log: SpeedLog, clock: SimpleNamespace, device: str = "cpu", processes: int = 1) -> None:
    """A training of 100 steps, one a second."""
    args = SimpleNamespace(device=SimpleNamespace(type=device), world_size=processes)
    log.on_train_begin(args, SimpleNamespace(global_step=0), None)
    for step in range(1, 101):
        clock.seconds += 1
        log.on_step_end(args, SimpleNamespace(global_step=step), None)


def test_a_row_after_five_seconds_and_every_fifteen(tmp_path: Path, clock: SimpleNamespace) -> None:
    steps(SpeedLog(tmp_path / "speed.jsonl"), clock)
    rows = metrics.read(tmp_path / "speed.jsonl")
    assert [row["step"] for row in rows] == [5, 20, 35, 50, 65, 80, 95]
    assert of_rows(rows) == LayerSpeed(50.0, 0.002)


@pytest.mark.parametrize(("device", "processes"), [("cuda", 1), ("cpu", 2)])
def test_gpus_and_several_processes_write_none(
    tmp_path: Path, clock: SimpleNamespace, device: str, processes: int
) -> None:
    steps(SpeedLog(tmp_path / "speed.jsonl"), clock, device, processes)
    assert not (tmp_path / "speed.jsonl").exists()
    assert of_rows(metrics.read(tmp_path / "speed.jsonl")) is None


def test_a_machine_so_loaded_that_a_row_takes_seconds_is_asked_less_often(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(seconds: float) -> LayerSpeed:
        clock.seconds += 2
        return LayerSpeed(1.0, 0.1)

    monkeypatch.setattr(speed_log, "measure_layer", slowly)
    steps(SpeedLog(tmp_path / "speed.jsonl"), clock)
    assert [row["step"] for row in metrics.read(tmp_path / "speed.jsonl")] == [5, 45, 85]
