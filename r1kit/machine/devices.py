"""The device that training runs on (`detect_device`), and masks that limit a process to some GPUs (`mask`).

The device is "cpu" or "cuda", which includes ROCm, as in PyTorch; the reason for it is returned as well.

On ROCm `ROCR_VISIBLE_DEVICES`, `HIP_VISIBLE_DEVICES` and `CUDA_VISIBLE_DEVICES` filter one after the other,
and vLLM does not start if the last two differ. ROCR's mask also breaks the process group that transfers
weights (vllm PR 46895). So `mask` rejects ROCR's and sets the other two to the same value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1kit.settings.errors import UserError

ROCR, HIP, CUDA = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
MASKS = (CUDA, HIP, ROCR)
DEV = Path("/dev")


def accelerator(dev: Path = DEV) -> tuple[str | None, str]:
    """Return the vendor ("AMD", "NVIDIA" or None) of the device files, and a text that names the file."""
    if (dev / "kfd").exists():
        return "AMD", "an AMD GPU (/dev/kfd)"
    if any(dev.glob("nvidia[0-9]*")):
        return "NVIDIA", "an NVIDIA GPU (/dev/nvidia*)"
    if (dev / "dxg").exists():  # WSL has NVIDIA's library and no device files of its own
        return "NVIDIA", "a GPU of Windows (/dev/dxg)"
    return None, "no GPU: neither /dev/kfd (AMD) nor /dev/nvidia* nor /dev/dxg (WSL) is there"


def detect_device(dev: Path = DEV, platform: str = sys.platform) -> tuple[str, str]:
    """Return ("cuda", "ROCm 7.1: 8 x AMD Instinct MI350X") or ("cpu", why no GPU is used).

    torch is imported only if a device file shows that a GPU may be present, because the import takes seconds.
    """
    if platform == "darwin":
        return "cpu", "macOS: TRL's trainers run on the CPU here, Apple's GPU is not used"
    vendor, sign = accelerator(dev)
    if vendor is None:
        return "cpu", sign
    hidden = next((name for name in MASKS if os.environ.get(name) in ("", "-1")), None)
    if hidden:
        return "cpu", f"{sign} is there, but {hidden}={os.environ[hidden]!r} hides all GPUs"
    return _ask_torch(sign)


def _ask_torch(sign: str) -> tuple[str, str]:
    try:
        import torch
    except ImportError as error:
        return "cpu", f"{sign} is there, but torch cannot be imported: {error}"
    hip, cuda = getattr(torch.version, "hip", None), torch.version.cuda
    if not (hip or cuda):
        return "cpu", f"{sign} is there, but torch {torch.__version__} is built for the CPU only"
    if not torch.cuda.is_available():
        stack = "ROCm" if hip else "CUDA"
        return "cpu", f"{sign} is there, but torch's {stack} finds no usable device (driver, permissions?)"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    counted = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return "cuda", f"{f'ROCm {hip}' if hip else f'CUDA {cuda}'}: {counted}"


class LayoutError(UserError):
    """The requested devices cannot be assigned to a process."""


def mask(
    devices: Sequence[int], *, rocm: bool | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment variables with which a process sees only `devices`.

    Args:
        devices: indices among the devices that this process sees; an empty sequence hides all.
        rocm: set AMD's variables too; by default if this machine has an AMD GPU.
        environment: the environment with the masks already in effect (a scheduler may set them); by default
            this process's.

    Raises:
        LayoutError: ROCR_VISIBLE_DEVICES is set, HIP's and CUDA's masks differ, or a device does not exist.
    """
    rocm = accelerator()[0] == "AMD" if rocm is None else rocm
    environment = os.environ if environment is None else environment
    names = (HIP, CUDA) if rocm else (CUDA,)
    if rocm and environment.get(ROCR):
        raise LayoutError(
            f"{ROCR}={environment[ROCR]} is set: HIP's numbers would count within it, and weights could not "
            f"move between server and trainer. Unset it; machine.yaml's layout sets {HIP} and {CUDA}."
        )
    given = {environment[name] for name in names if environment.get(name)}
    if len(given) > 1:
        raise LayoutError(
            f"{HIP}={environment[HIP]} and {CUDA}={environment[CUDA]} differ; vLLM refuses that."
        )
    visible = given.pop().split(",") if given else None
    if visible is not None and devices and max(devices) >= len(visible):
        raise LayoutError(
            f"machine.yaml's layout names device {max(devices)}, but {names[0]}={','.join(visible)} shows "
            f"only {len(visible)}, numbered from 0."
        )
    text = ",".join(visible[device].strip() if visible else str(device) for device in devices)
    return dict.fromkeys(names, text)
