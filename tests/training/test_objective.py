"""The lesson's three functions against numbers done by hand and against TRL's own trainer."""

from __future__ import annotations

import math

import pytest
import torch

from r1kit.training.rl.objective import (
    LOSS_TYPES,
    group_advantages,
    grpo_loss,
    importance_ratios,
    token_logprobs,
)


def test_advantages_of_a_group_are_the_style_guides_numbers():
    advantages = group_advantages(torch.tensor([1.0, 1.0, 0.0, 0.0]), 4)
    assert torch.allclose(advantages, torch.tensor([0.8659, 0.8659, -0.8659, -0.8659]), atol=1e-4)


def test_a_group_of_equal_rewards_teaches_nothing():
    assert group_advantages(torch.tensor([1.2, 1.2, 1.2, 0.0, 1.0, 0.5]), 3)[:3].abs().max() < 1e-6


def test_unscaled_advantages_only_subtract_the_mean():
    assert group_advantages(torch.tensor([3.0, 1.0]), 2, scale=False).tolist() == [1.0, -1.0]


def test_token_logprobs_are_the_models_own(model):
    ids = torch.randint(3, 300, (2, 9))
    with torch.no_grad():
        ours = token_logprobs(model.eval(), ids, 4)
        loss = model(input_ids=ids[:1], labels=torch.cat([torch.full((1, 5), -100), ids[:1, 5:]], 1)).loss
    assert ours.shape == (2, 4)
    assert math.isclose(-ours[0].mean().item(), loss.item(), rel_tol=1e-5)


def test_without_a_step_the_loss_is_minus_the_mean_advantage():
    logprobs = torch.full((2, 3), -1.0)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantages = torch.tensor([1.0, -1.0])
    assert grpo_loss(logprobs, logprobs, advantages, mask, loss_type="grpo").item() == 0.0
    assert grpo_loss(logprobs, logprobs, advantages, mask, loss_type="dapo").item() == pytest.approx(-0.5)


def test_a_token_that_moved_too_far_has_no_gradient():
    logprobs = torch.tensor([[0.5, 0.05]], requires_grad=True)
    grpo_loss(logprobs, torch.zeros(1, 2), torch.tensor([1.0]), torch.ones(1, 2)).backward()
    assert logprobs.grad[0, 0] == 0
    assert logprobs.grad[0, 1] < 0


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    new, mask = torch.tensor([[2.0, 8.0, 99.0]]).log(), torch.tensor([[1, 1, 0]])
    ratio = importance_ratios(new, torch.zeros(1, 3), mask, "sequence")
    assert ratio.tolist() == [[pytest.approx(4.0)]]


def test_one_long_sequence_is_worth_as_much_as_a_short_one_in_grpo_and_more_in_dapo():
    """The length bias: in a wrong answer of ten tokens each is punished a tenth as hard."""
    mask = torch.tensor([[1.0] * 10, [1.0] + [0.0] * 9])
    gradients = {}
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        logprobs = torch.zeros(2, 10, requires_grad=True)
        grpo_loss(
            logprobs, torch.zeros(2, 10), torch.tensor([-1.0, -1.0]), mask, 0.2, 0.2, loss_type,
            max_completion_length=10,
        ).backward()  # fmt: skip
        gradients[loss_type] = (logprobs.grad[0, 0] / logprobs.grad[1, 0]).item()
    assert gradients == {
        "grpo": pytest.approx(0.1),
        "dapo": pytest.approx(1.0),
        "dr_grpo": pytest.approx(1.0),
    }


def test_unknown_and_incomplete_losses_are_refused():
    tensors = (torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1), torch.ones(1, 2))
    with pytest.raises(ValueError, match="dapo"):
        grpo_loss(*tensors, loss_type="ppo")
    with pytest.raises(ValueError, match="max_completion_length"):
        grpo_loss(*tensors, loss_type="dr_grpo")


@pytest.fixture(scope="module")
def trl_trainer(world):
    """TRL's GRPOTrainer on the tiny model, not started."""
    from datasets import load_from_disk
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(world / "unused"), use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", per_device_train_batch_size=4, num_generations=4, max_completion_length=12,
        epsilon=0.2, epsilon_high=0.28,
    )  # fmt: skip
    return GRPOTrainer(
        model=str(world / "base"),
        args=args,
        reward_funcs=lambda completions, **columns: [float(len(c[0]["content"])) for c in completions],
        train_dataset=load_from_disk(str(world / "prompts")),
        processing_class=AutoTokenizer.from_pretrained(str(world / "tokenizer"), padding_side="left"),
    )


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("loss_type", "level"), [*((name, "token") for name in LOSS_TYPES), ("grpo", "sequence")]
)
def test_the_loss_and_its_gradient_are_trls(trl_trainer, loss_type, level, beta):
    torch.manual_seed(0)
    trainer, model = trl_trainer, trl_trainer.model.train()
    trainer.loss_type, trainer.beta, trainer.current_gradient_accumulation_steps = loss_type, beta, 1
    high = 5.0 if loss_type == "cispo" else 0.28
    trainer.epsilon_high, trainer.importance_sampling_level = high, level
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5, [1] * 3 + [0] * 9, [1] * 12])
    inputs = {
        "prompt_ids": torch.randint(3, 300, (4, 8)),
        "prompt_mask": torch.tensor([[1] * 8, [0] * 3 + [1] * 5, [1] * 8, [0] + [1] * 7]),
        "completion_ids": torch.randint(3, 300, (4, 12)),
        "completion_mask": mask,
        "advantages": torch.tensor([1.2, -0.3, 0.7, -1.6]),
        "num_items_in_batch": mask.sum(),
    }
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], mask], 1)
    logprobs = token_logprobs(model, ids, 12, attention)
    inputs["old_per_token_logps"] = logprobs.detach() + 0.3 * torch.randn(4, 12)
    inputs["ref_per_token_logps"] = logprobs.detach() + 0.3 * torch.randn(4, 12)
    theirs = trainer._compute_loss(model, inputs)
    ours = grpo_loss(
        logprobs, inputs["old_per_token_logps"], inputs["advantages"], mask, 0.2, high, loss_type,
        max_completion_length=12, beta=beta, reference_logprobs=inputs["ref_per_token_logps"],
        importance_sampling_level=level,
    )  # fmt: skip
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)
    gradients = []
    for loss in (ours, theirs):
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_advantages_are_trls(trl_trainer):
    torch.manual_seed(0)
    trainer = trl_trainer
    trainer.model.train()
    trainer.beta = 0.0
    trainer.num_generations = 2
    output = trainer._generate_and_score_completions([trainer.train_dataset[i // 2] for i in range(4)])
    (rewards,) = trainer._logs["rewards"].values()
    assert torch.allclose(group_advantages(torch.tensor(list(rewards)), 2), output["advantages"], atol=1e-5)
    assert output["advantages"].abs().max() > 0.5
