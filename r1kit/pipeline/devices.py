"""Which devices a job of the run may see."""

from __future__ import annotations

from r1kit.machine.masks import mask
from r1kit.settings import Profile


def device_mask(settings: Profile, program: str) -> dict[str, str]:
    """Environment with the GPUs that a training program may use by machine.yaml's layout; {} without one.

    GRPO has the devices of `train`. The others, beside which no server runs, have all if so many processes
    start.
    """
    layout = settings.machine.layout
    if layout is None:
        return {}
    section = getattr(settings, {"pretrain": "base"}.get(program, program), None)
    if section is not None and section.alone:
        return mask(layout.train[:1])
    alone = program != "grpo" and settings.accelerate.get("num_processes") != len(layout.train)
    return mask(sorted({*layout.serve, *layout.train}) if alone else layout.train)
