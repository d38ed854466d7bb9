from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

from r1kit.training.optimizer import (
    MuonAdamW,
    build_optimizer,
    orthogonalize,
    parameter_groups,
)


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
def test_orthogonalize_is_torchs_iteration_in_float32(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    reference = _zeropower_via_newtonschulz(matrix, (DEFAULT_A, DEFAULT_B, DEFAULT_C), 5, 1e-7)
    ours = orthogonalize(matrix)
    assert ours.dtype == torch.float32
    assert (ours - reference.float()).abs().max() < 0.03, "more than bfloat16's rounding"


def test_muon_takes_the_hidden_matrices_and_nothing_else(model):
    groups = parameter_groups(model, 1e-3, 2e-2, weight_decay=0.1)
    muon = set(map(id, groups[2]["params"]))
    names = [name for name, parameter in model.named_parameters() if id(parameter) in muon]
    assert {name.rsplit(".", 2)[-2] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert [group.get("muon", False) for group in groups] == [False, False, True]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("shape", "group", "reference", "tolerance"),
    [
        ((5,), {}, lambda p: torch.optim.AdamW([p], lr=0.02, weight_decay=0.0), 1e-7),
        (
            (24, 16),
            {"muon": True, "weight_decay": 0.1},
            lambda p: torch.optim.Muon([p], lr=0.02, weight_decay=0.1),
            2e-3,
        ),
    ],
    ids=["AdamW", "Muon"],
)
def test_each_part_is_torchs_optimizer(shape, group, reference, tolerance):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [MuonAdamW([{"params": [ours], **group}], lr=0.02), reference(theirs)]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=tolerance)


def trained(model, optimizer, steps, seed=0):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    torch.manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 300, (2, 12))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        model.zero_grad()
    return schedule


def test_one_schedule_moves_both_learning_rates(model):
    optimizer = MuonAdamW(parameter_groups(model, 1e-3, 2e-2), 1e-3)
    schedule = trained(model, optimizer, 3)
    assert [round(lr, 9) for lr in schedule.get_last_lr()] == [1e-3 / 4, 1e-3 / 4, 2e-2 / 4]


def test_state_saved_and_loaded_goes_on_bit_by_bit(model, tokenizer):
    import copy

    other = copy.deepcopy(model)
    first = MuonAdamW(parameter_groups(model, 1e-3, 2e-2), 1e-3)
    trained(model, first, 2)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = MuonAdamW(parameter_groups(other, 1e-3, 2e-2), 1e-3)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    other.load_state_dict(model.state_dict())
    trained(model, first, 2, seed=1)
    trained(other, second, 2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_vector_in_muons_group_is_refused():
    with pytest.raises(ValueError, match="two-dimensional"):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.zeros(3))], "muon": True}], lr=0.1)


def test_muon_is_refused_under_deepspeed_and_adamw_is_the_trainers_own():
    args = SimpleNamespace(deepspeed={"zero_optimization": {"stage": 2}})
    with pytest.raises(ValueError, match="DeepSpeed"):
        build_optimizer(SimpleNamespace(optimizer="muon"), args)
    assert build_optimizer(SimpleNamespace(optimizer="adamw"), args) is None
