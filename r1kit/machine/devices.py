"""Which device training runs on, found once and said with its reason. "cuda" includes ROCm, as in PyTorch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MASKS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def detect_device(dev: Path = Path("/dev"), platform: str = sys.platform) -> tuple[str, str]:
    """("cuda", "ROCm 7.1: 8 x AMD Instinct MI350X") or ("cpu", why no GPU is used).

    torch is imported only if a device file says that a GPU could be there: that import costs seconds.
    """
    if platform == "darwin":
        return "cpu", "macOS: TRL's trainers run on the CPU here, Apple's GPU is not used"
    sign = _accelerator(dev)
    if sign is None:
        return "cpu", "no GPU: neither /dev/kfd (AMD) nor /dev/nvidia* nor /dev/dxg (WSL) is there"
    hidden = next((mask for mask in MASKS if os.environ.get(mask) in ("", "-1")), None)
    if hidden:
        return "cpu", f"{sign} is there, but {hidden}={os.environ[hidden]!r} hides all GPUs"
    return _ask_torch(sign)


def _accelerator(dev: Path) -> str | None:
    """The kind of accelerator that a device file speaks for."""
    if (dev / "kfd").exists():
        return "an AMD GPU (/dev/kfd)"
    if any(dev.glob("nvidia[0-9]*")):
        return "an NVIDIA GPU (/dev/nvidia*)"
    if (dev / "dxg").exists():
        return "a GPU of Windows (/dev/dxg)"
    return None


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
