"""Rows without an advantage are left out of the forward and backward pass: they cost time and teach nothing.

A group whose completions all earned the same has advantages of 0, and its part of the gradient is 0. TRL
computes it nevertheless. Here only rows with an advantage go through the model, and the loss is scaled to
what it would have been with all of them, so the gradient is the same but for rounding. Metrics that TRL takes
on the way (`entropy`, `clip_ratio/...`) are about the rows that are left.

It is not done where a row without an advantage has a gradient of its own: a KL term (`beta`), an entropy
bonus, the load-balancing loss of experts; nor where other rows decide which tokens count
(`top_entropy_quantile`).
"""

from __future__ import annotations

from typing import Any

import torch

BY_ROWS = ("grpo", "sapo", "dr_grpo", "luspo")
"""Losses that TRL averages over the rows of a batch; of the others `bnpo` divides by its tokens, and the rest
by those of the whole step, which are counted before."""


class GradientRows:
    """Mixed into a GRPOTrainer; without `leave_out` it changes nothing."""

    leave_out = False

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's, of the rows that have an advantage; where none has, of one: a backward pass follows."""
        if not (self.leave_out and model.training and self.only_advantages_count()):
            return super()._compute_loss(model, inputs)
        rows = inputs["advantages"].nonzero().flatten()
        rows = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=rows.device)
        kept = rows_of(inputs, rows)
        return super()._compute_loss(model, kept) * self._share(inputs, kept)

    def only_advantages_count(self) -> bool:
        """Whether a row whose advantage is 0 has no gradient."""
        extra = self._entropy_bonus_enabled or self.aux_loss_enabled
        return self.beta == 0.0 and not extra and self.top_entropy_quantile == 1.0

    def _share(self, inputs: dict[str, Any], kept: dict[str, Any]) -> float | torch.Tensor:
        """What the loss of the rows that are left is of the loss of all."""
        if self.loss_type in BY_ROWS:
            return len(kept["advantages"]) / len(inputs["advantages"])
        if self.loss_type == "bnpo":
            return kept["completion_mask"].sum() / inputs["completion_mask"].sum().clamp(min=1)
        return 1.0


def rows_of(inputs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """A batch with some of its rows, [N] indices; what is no tensor with a row each stays as it is."""
    count = len(inputs["advantages"])
    return {
        name: value[rows] if torch.is_tensor(value) and value.dim() and len(value) == count else value
        for name, value in inputs.items()
    }
