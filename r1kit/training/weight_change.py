"""How far the weights moved between two syncs: a generator that is frozen, or fed old weights, shows here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from r1kit.training.weight_file import Metadata

SAMPLED = 2**22
"""Parameters compared for `weights/change_norm`: all of a small model, every k-th of a large one."""


class ChangeNorm:
    """How far the weights moved between two syncs: the L2 norm of the difference of all parameters.

    It keeps a copy of at most about `SAMPLED` parameters (16 MB). Beyond that it looks at every k-th and
    scales by sqrt(k): an estimate, whose error falls with the square root of their number.
    """

    def __init__(self, metadata: Metadata):
        total = sum(torch.Size(shape).numel() for _, _, shape in metadata)
        self.every = max(1, total // SAMPLED)
        self.before: dict[str, torch.Tensor] = {}
        self.squares: float | None = None

    def watch(
        self, tensors: Iterable[tuple[str, torch.Tensor]], again: bool = False
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass the tensors on and compare them with those of the last complete pass.

        `again`: they are the same as then, sent to a server that was restarted; the norm stays.
        """
        squares, first, seen = 0.0, not self.before, {}
        for name, tensor in tensors:
            sample = tensor.detach().reshape(-1)[:: self.every].to("cpu", torch.float32, copy=True)
            if not first:
                squares += float((sample - self.before[name]).double().square().sum())
            seen[name] = sample
            yield name, tensor
        self.before = seen
        if not (first or again):
            self.squares = squares

    @property
    def norm(self) -> float | None:
        """Of the last pass; None after the first."""
        return None if self.squares is None else (self.squares * self.every) ** 0.5
