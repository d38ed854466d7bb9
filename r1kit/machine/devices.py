"""Which device training runs on, found once and said with its reason. "cuda" includes ROCm, as in PyTorch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROCR, HIP, CUDA = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
MASKS = (CUDA, HIP, ROCR)
DEV = Path("/dev")


def accelerator(dev: Path = DEV) -> tuple[str | None, str]:
    """Return the vendor ("AMD", "NVIDIA" or None) that the device files show, and the sign in words."""
    if (dev / "kfd").exists():
        return "AMD", "an AMD GPU (/dev/kfd)"
    if any(dev.glob("nvidia[0-9]*")):
        return "NVIDIA", "an NVIDIA GPU (/dev/nvidia*)"
    if (dev / "dxg").exists():  # WSL has NVIDIA's library and no device files of its own
        return "NVIDIA", "a GPU of Windows (/dev/dxg)"
    return None, "no GPU: neither /dev/kfd (AMD) nor /dev/nvidia* nor /dev/dxg (WSL) is there"


def detect_device(dev: Path = DEV, platform: str = sys.platform) -> tuple[str, str]:
    """Return ("cuda", "ROCm 7.1: 8 x AMD Instinct MI350X") or ("cpu", why no GPU is used).

    torch is imported only if a device file says that a GPU could be there: that import costs seconds.
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
