"""The device and its reason, without loading torch where no GPU can be; masks within a scheduler's mask."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from r1kit.machine import devices
from r1kit.machine.devices import MASKS, LayoutError, accelerator, detect_device, mask


@pytest.fixture(autouse=True)
def _no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MASKS:
        monkeypatch.delenv(name, raising=False)


def fake_torch(
    monkeypatch: pytest.MonkeyPatch, *, hip: str | None, cuda: str | None, names: tuple[str, ...]
) -> None:
    torch = types.ModuleType("torch")
    torch.__version__ = "2.13.0"
    torch.version = types.SimpleNamespace(hip=hip, cuda=cuda)
    torch.cuda = types.SimpleNamespace(
        is_available=lambda: bool(names), device_count=lambda: len(names), get_device_name=lambda i: names[i]
    )
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_without_device_files_it_is_the_cpu(tmp_path: Path) -> None:
    device, reason = detect_device(tmp_path, "linux")
    assert device == "cpu"
    assert "/dev/kfd" in reason
    assert "/dev/nvidia*" in reason


def test_macos_says_that_its_gpu_is_not_used(tmp_path: Path) -> None:
    assert detect_device(tmp_path, "darwin")[1].startswith("macOS")


def test_rocm_is_called_rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kfd").touch()
    fake_torch(monkeypatch, hip="7.1.25424", cuda=None, names=("AMD Instinct MI350X",) * 8)
    assert detect_device(tmp_path, "linux") == ("cuda", "ROCm 7.1.25424: 8 x AMD Instinct MI350X")


def test_cuda_is_called_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    fake_torch(monkeypatch, hip=None, cuda="12.8", names=("NVIDIA H200",))
    assert detect_device(tmp_path, "linux") == ("cuda", "CUDA 12.8: 1 x NVIDIA H200")


def test_a_cpu_build_beside_a_gpu_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    fake_torch(monkeypatch, hip=None, cuda=None, names=())
    device, reason = detect_device(tmp_path, "linux")
    assert device == "cpu"
    assert "built for the CPU only" in reason


def test_a_gpu_that_the_driver_does_not_give_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kfd").touch()
    fake_torch(monkeypatch, hip="7.1", cuda=None, names=())
    assert "ROCm finds no usable device" in detect_device(tmp_path, "linux")[1]


def test_a_mask_that_hides_all_gpus_is_said_without_asking_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "_ask_torch", lambda sign: pytest.fail("torch was asked"))
    assert "CUDA_VISIBLE_DEVICES='' hides all GPUs" in detect_device(tmp_path, "linux")[1]


def test_torch_stays_unloaded_where_no_gpu_can_be(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from r1kit.machine import detect_device; "
        f"detect_device(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rocm_gets_two_equal_masks_and_nvidia_one():
    both = {"HIP_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert mask([2, 3], rocm=True, environment={}) == both
    assert mask([2, 3], rocm=False, environment={}) == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_numbers_count_within_the_mask_of_a_scheduler():
    outer = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert mask([0, 3], rocm=False, environment=outer) == {"CUDA_VISIBLE_DEVICES": "4,7"}
    with pytest.raises(LayoutError, match=r"names device 4, but .* shows only 4"):
        mask([4], rocm=False, environment=outer)


def test_rocr_masks_and_masks_that_differ_are_refused():
    with pytest.raises(LayoutError, match="Unset it"):
        mask([0], rocm=True, environment={"ROCR_VISIBLE_DEVICES": "0,1"})
    differing = {"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(LayoutError, match="differ"):
        mask([0], rocm=True, environment=differing)


def test_amd_is_known_by_its_device_file(tmp_path):
    assert accelerator(tmp_path)[0] is None
    (tmp_path / "kfd").touch()
    assert accelerator(tmp_path)[0] == "AMD"
