"""The doctor says what it found, what it wants and what to do; only failures stop a run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from r1kit.cli.main import main
from r1kit.machine import doctor, resources, speed, versions
from r1kit.settings import load_profile


@pytest.fixture
def profile() -> Any:
    machine = SimpleNamespace(
        device="cpu",
        environment={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        expected_minutes={"01_data": 2.0, "02_sft": 3.0},
        reference_gflops=150.0,
    )
    accelerate = {"distributed_type": "NO", "num_processes": 1}
    whole = SimpleNamespace(model={})
    trainings = {"base": object(), "sft": whole, "grpo": whole}
    return SimpleNamespace(name="tiny", machine=machine, accelerate=accelerate, **trainings)


def checked(profile: Any, runs_folder: Path | None = None) -> list[doctor.Check]:
    return doctor.check(profile, runs_folder or Path(tempfile.gettempdir()))


def found(profile: Any, name: str, runs_folder: Path | None = None) -> doctor.Check:
    return next(check for check in checked(profile, runs_folder) if check.name == name)


def test_this_machine_passes(profile: Any) -> None:
    checks = checked(profile)
    assert not [str(check) for check in checks if check.level == "fail"]
    names = [check.name for check in checks]
    assert {"settings", "Python", "torch", "trl", "device", "cores", "threads", "free memory"} <= set(names)
    assert {"free disk", "compiler", "offline", "runs folder", "accelerate.yaml"} <= set(names)


def test_a_failure_is_one_line_with_found_want_and_do(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: resources.Memory(4 * doctor.GIB, doctor.GIB))
    check = found(profile, "free memory")
    assert check.level == "fail"
    assert str(check).startswith(
        "[FAIL] free memory: found 1.0 GiB, want 4.0 GiB or more, close other programs"
    )
    assert doctor.render(checked(profile)).splitlines()[-1].startswith("1 failed")


def test_a_wrong_release_warns_and_a_missing_package_fails(
    profile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"trl": "0.9.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    assert found(profile, "trl").level == "warn"
    assert "want 1.16.0" in str(found(profile, "trl"))
    assert found(profile, "torch").ok
    assert found(profile, "datasets").level == "fail"
    assert "vllm" not in [check.name for check in checked(profile)]


def test_a_profile_that_trains_adapters_misses_peft(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", {"torch": "2.13.0"}.get)
    check = found(load_profile("gpu-small"), "peft")
    assert check.level == "fail"
    assert "use_peft in sft and grpo" in str(check)
    assert "peft" not in [check.name for check in checked(profile)]


def test_a_gpu_profile_on_a_cpu_fails(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("mi350x-8")
    monkeypatch.setattr(doctor, "detect_device", lambda: ("cpu", "no GPU"))
    assert "choose a CPU profile" in str(found(profile, "device"))
    assert found(profile, "device").level == "fail"


def test_a_big_profile_wants_room_for_all_it_keeps_and_at_least_for_one_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    big = load_profile("mi350x-8")
    wanted, least = doctor.disk_wanted(doctor.planned(big))
    assert 100 * 10**9 < least < 110 * 10**9  # 14 bytes for each of 7.6 billion parameters
    assert wanted > 2 * least
    for free, level in ((wanted, "ok"), (least, "warn"), (least - 1, "fail")):
        monkeypatch.setattr(resources, "disk_free", lambda _, free=free: free)
        assert found(big, "free disk").level == level
    assert doctor.disk_wanted(None) == (doctor.DISK_WANTED, doctor.DISK_LEAST)


@pytest.mark.parametrize(
    ("environment", "processes", "level"), [("1", 1, "ok"), ("64", 1, "warn"), ("1", 64, "warn")]
)
def test_more_threads_than_cores_is_a_warning(
    environment: str, processes: int, level: str, profile: Any
) -> None:
    profile.machine.environment["OMP_NUM_THREADS"] = environment
    profile.accelerate = {"distributed_type": "MULTI_CPU", "num_processes": processes}
    assert found(profile, "threads").level == level


def test_the_embedded_profile_is_offline(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    del profile.machine.environment["HF_HUB_OFFLINE"]
    assert found(profile, "offline").level == "warn"
    profile.base = None
    assert "offline" not in [check.name for check in checked(profile)]


def test_a_runs_folder_that_cannot_be_written_fails_and_nothing_is_made(profile: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert found(profile, "runs folder", tmp_path / "file" / "runs").level == "fail"
    assert found(profile, "runs folder", tmp_path / "not" / "yet").ok
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_looks_where_runs_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Incident: `R1KIT_RUNS='~/elsewhere' r1kit doctor` made a folder named `~`."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"R1KIT_RUNS": "~/elsewhere", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["r1kit", "doctor", "--json"])
    with pytest.raises(SystemExit):
        main()
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["runs folder"]["found"] == str(tmp_path / "elsewhere")
    assert not [path for path in tmp_path.iterdir() if path.name in ("~", "elsewhere")]


def test_too_many_processes_for_the_cores_is_a_warning(profile: Any) -> None:
    profile.accelerate = {"distributed_type": "MULTI_CPU", "num_processes": 10_000}
    assert found(profile, "accelerate.yaml").level == "warn"


def test_no_compiler_is_only_a_warning(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert found(profile, "compiler").level == "warn"


def test_the_matrix_agrees_with_the_lock() -> None:
    lock = Path(__file__).parents[2] / "requirements" / "cpu.txt"
    pinned = dict(
        line.split(" ;")[0].strip().split("==") for line in lock.read_text().splitlines() if "==" in line
    )
    for pin in versions.MATRIX:
        if not pin.optional:
            assert pinned[pin.name].partition("+")[0] == pin.version, pin.name


def test_speed_is_measured_within_its_time() -> None:
    assert speed.measure_gflops(0.1) > 0.1


def test_minutes_scale_with_the_speed_of_the_machine(profile: Any) -> None:
    assert speed.expected_minutes(profile, 75.0) == {"01_data": 4.0, "02_sft": 6.0}
    assert speed.expected_minutes(profile) == {"01_data": 2.0, "02_sft": 3.0}
    profile.machine.reference_gflops = None
    assert speed.expected_minutes(profile, 75.0) == {"01_data": 2.0, "02_sft": 3.0}


def test_requirements_that_are_not_met_stop_with_their_lines(profile: Any) -> None:
    doctor.require(check for check in checked(profile) if check.level != "fail")
    with pytest.raises(doctor.RequirementsNotMet, match=r"\[FAIL\] disk: found 1, want 2, make room"):
        doctor.require([doctor.Check("disk", False, "1", "2", "make room", "fail")])
