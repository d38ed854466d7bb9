"""How fast the devices are that a plan counts with: the table's row, or a CPU as it was measured."""

from __future__ import annotations

from dataclasses import replace

from r1kit.machine.layer_speed import REFERENCE, LayerSpeed
from r1kit.machine.peaks import DEVICES, Device
from r1kit.machine.plan.hours import Speeds
from r1kit.machine.plan.inputs import device_of
from r1kit.settings import Profile


def speeds_of(profile: Profile, device: Device, gflops: float | None, layer: LayerSpeed | None) -> Speeds:
    """The device table's speeds and shares; on a CPU in proportion to what was measured on this one.

    Training follows a layer's forward and backward, generation a single token's pass: other work on the
    machine, fewer threads or a slower clock do not cost the two alike.
    """
    peak, slower, slower_pass = device.matrix, 1.0, 1.0
    if device is DEVICES["cpu"]:
        peak = (profile.machine.reference_gflops or device.matrix / 1e9) * 1e9
        if layer:
            slower = REFERENCE.gflops / layer.gflops
            slower_pass = layer.pass_seconds / REFERENCE.pass_seconds
        elif gflops:
            slower = slower_pass = peak / (gflops * 1e9)
    assumed = profile.machine.plan
    return Speeds(
        peak / slower,
        assumed.train_share or device.train_share,
        device.bandwidth / slower,
        assumed.decode_share or device.decode_share,
        device.forward_seconds * slower_pass,
    )


def shared(speeds: Speeds, profile: Profile, processes: int) -> Speeds:
    """What one training process has: a GPU to itself, but of a CPU only its part of the cores."""
    here = processes / profile.accelerate.get("num_machines", 1)
    if device_of(profile) is not DEVICES["cpu"] or here <= 1:
        return speeds
    return replace(speeds, peak=speeds.peak / here, bandwidth=speeds.bandwidth / here)
