"""Cores and memory are those a container may use; samples of the machine leave unknown values out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from r1kit.machine import gpus, resources
from r1kit.machine.gpus import Gpu, GpuToolError, Source
from r1kit.machine.resources import Monitor

REAL = psutil.virtual_memory().total


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_without_limits_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert resources.cores(write(tmp_path, cpu__max="max 100000\n")) == 3


def test_without_affinity_masks_every_core_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert resources.cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("400000 100000", 4)]
)
def test_a_container_quota_limits_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert resources.cores(write(tmp_path, cpu__max=quota)) == cores


def test_a_quota_of_control_groups_version_1_limits_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    write(tmp_path / "cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert resources.cores(tmp_path) == 2


def test_a_container_limits_memory_and_its_file_cache_counts_as_free(tmp_path: Path) -> None:
    write(
        tmp_path,
        memory__max=str(REAL // 2),
        memory__current=str(REAL // 4),
        memory__stat=f"anon 5\ninactive_file {REAL // 8}\n",
    )
    found = resources.memory(tmp_path)
    assert found.total == REAL // 2
    assert found.available <= REAL // 2 - REAL // 4 + REAL // 8


def test_without_a_limit_the_whole_memory_counts(tmp_path: Path) -> None:
    assert resources.memory(write(tmp_path, memory__max="max\n")).total == REAL


def test_threads_are_what_openmp_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert resources.threads() == resources.cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resources.threads() == 3
    assert resources.threads({"OMP_NUM_THREADS": "5"}) == 5


def test_free_disk_is_known_before_the_folder_exists(tmp_path: Path) -> None:
    assert resources.disk_free(tmp_path / "not" / "yet") > 0


def test_a_reading_has_processor_and_memory_everywhere(tmp_path):
    monitor = Monitor(tmp_path)
    assert "cpu" not in monitor.read()  # a percentage needs a reading before
    row = monitor.read()
    assert 0 < row["memory_used"] < row["memory_total"]
    assert row["cpu"] >= 0
    assert "gpus" not in row


def test_a_reading_holds_what_a_gpu_says_and_leaves_out_what_it_does_not(monkeypatch):
    source = Source("tool", "AMD", lambda: [Gpu(0, "MI350X", utilisation=0, power=239.0)], list)
    monkeypatch.setattr(gpus, "find", lambda dev: (source, "tool"))
    row = Monitor().read()
    assert row["gpus"] == [{"index": 0, "utilisation": 0, "power": 239.0}]
    json.dumps(row)


def test_a_tool_that_keeps_failing_is_asked_three_times(monkeypatch):
    asked = []

    def read():
        asked.append(1)
        raise GpuToolError("Invalid platform")

    monkeypatch.setattr(gpus, "find", lambda dev: (Source("tool", "AMD", read, list), "tool"))
    monitor = Monitor()
    rows = [monitor.read() for _ in range(5)]
    assert [row.get("gpu_error") for row in rows] == ["Invalid platform"] * 3 + [None] * 2
    assert len(asked) == 3
