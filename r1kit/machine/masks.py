"""Which GPUs a process sees: one function sets the masks, so that no two of them can disagree.

On ROCm `ROCR_VISIBLE_DEVICES`, `HIP_VISIBLE_DEVICES` and `CUDA_VISIBLE_DEVICES` filter one after the other,
and vLLM refuses to start where the last two differ. ROCR's mask also breaks the group in which weights move
(vllm PR 46895): it is refused, and the other two are set to the same text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from r1kit.machine.devices import CUDA, HIP, ROCR, accelerator


class LayoutError(ValueError):
    """The devices asked for cannot be given to a process."""

    exit_code = 2


def mask(
    devices: Sequence[int], *, rocm: bool | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment variables with which a process sees only `devices`.

    Args:
        devices: numbers among the devices that this process sees; none hides them all.
        rocm: AMD's variables too; None: by the machine.
        environment: whose masks are in effect already (a scheduler sets them); None: this process's.

    Raises:
        LayoutError: ROCR_VISIBLE_DEVICES is set, HIP's and CUDA's masks differ, or a device is not there.
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
