"""Muon for the hidden matrices, AdamW for everything else, as one optimizer with one learning-rate schedule.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a momentum matrix by the
nearest semi-orthogonal one, found with five Newton-Schulz iterations. torch.optim.Muon does the same; we
depart from it in one point: on a CPU the iteration runs in float32, because bfloat16 products are slower
there by orders of magnitude (measured 2026-11-23, AVX2: 0.3 to 3 against 150 GFLOP/s), which would halve the
speed of a small training.

The programs call `build_optimizer`; the Trainer calls its result with the model (`resume.ExactResume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from r1kit.settings import Problem, SettingsError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def build_optimizer(settings: Any, args: Any) -> Callable[[nn.Module], MuonAdamW] | None:
    """Return a function that makes the optimizer of `optimizer:` from the model; None for Trainer's AdamW.

    Args:
        settings: has `optimizer` ("adamw" or "muon") and `muon_learning_rate`.
        args: TrainingArguments.

    Raises:
        SettingsError: Muon under DeepSpeed, which flattens matrices into vectors.
    """
    if settings.optimizer == "adamw":
        return None
    if args.deepspeed or args.distributed_state.distributed_type == "DEEPSPEED":
        why = "Muon needs whole matrices and DeepSpeed flattens them."
        raise SettingsError(
            [Problem("accelerate.yaml", "optimizer", "muon with DeepSpeed", "adamw", message=why)]
        )

    def build(model: nn.Module) -> MuonAdamW:
        groups = parameter_groups(model, args.learning_rate, settings.muon_learning_rate, args.weight_decay)
        return MuonAdamW(groups, args.learning_rate, (args.adam_beta1, args.adam_beta2), args.adam_epsilon)

    return build


def parameter_groups(
    model: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return AdamW's groups first, since Trainer reports the first group's learning rate; then Muon's.

    Muon takes the 2-D weights except embedding and output head. Norms and biases don't decay.
    """
    outer = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trainable if p.ndim == 2 and id(p) not in outer]
    muon = set(map(id, matrices))
    rest = [p for p in trainable if id(p) not in muon]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
        {"params": matrices, "lr": muon_learning_rate, "weight_decay": weight_decay, "muon": True},
    ]
    return [group for group in groups if group["params"]]


class MuonAdamW(torch.optim.Optimizer):
    """Parameter groups with `muon: True` (2-D tensors only) follow Muon, the others AdamW.

    Each group has its own `lr`; a scheduler multiplies all of them alike. The state is plain tensors, so
    Trainer's checkpoints restore it exactly.

    Raises:
        ValueError: a parameter of a Muon group is not two-dimensional.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "momentum": 0.95}
        super().__init__(groups, {**defaults, "muon": False})
        for group in self.param_groups:
            if group["muon"] and any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon is for matrices: a parameter of its group is not two-dimensional")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon_step if group["muon"] else self._adamw_step)(group, parameters)
        return loss

    def _muon_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            gradient, buffer = parameter.grad, state["momentum_buffer"]
            buffer.lerp_(gradient, 1 - group["momentum"])
            # Nesterov momentum, as in torch.optim.Muon
            update = orthogonalize(gradient.lerp(buffer, group["momentum"]))
            rows, columns = parameter.shape
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _adamw_step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalize(matrix: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Compute the semi-orthogonal factor of `matrix` [rows, columns] by Newton-Schulz iteration.

    Singular values end between 0.7 and 1.2. Float32 on a CPU, bfloat16 elsewhere; otherwise the same as
    torch.optim._muon._zeropower_via_newtonschulz.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)  # spectral norm at most 1
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
