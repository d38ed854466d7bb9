"""GRPO's objective in a few functions, for the lesson; a test compares them with TRL 1.16's.

GRPO (DeepSeekMath, arXiv:2402.03300, equations 3 and 21) compares each completion with its group: the reward
minus the group's mean, over its standard deviation, is the advantage of every token in it. Later papers
change one line each: DAPO (2503.14476) averages over all tokens, Dr. GRPO (2503.20783) divides by a constant
length and not by the standard deviation, GSPO (2507.18071) takes one ratio per completion, CISPO (2506.13585)
clips the weight of a token and not its gradient. `algorithm` in grpo.yaml selects one of them
(`r1kit.settings.training`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo")


def group_advantages(rewards: Tensor, group_size: int, scale: bool = True) -> Tensor:
    """Turn rewards [groups * group_size], group after group, into advantages of the same shape.

    The standard deviation is the sample's (divided by group_size - 1), and 1e-4 is added to it, as in TRL.
    `scale=False` only subtracts the mean (Dr. GRPO).
    """
    groups = rewards.view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    return advantages.view(-1)


def tokenize_rollouts(tokenizer: Any, prompt: str, completions: list[str]) -> dict[str, Tensor]:
    """Turn a prompt and C completions of at most L tokens into tensors, in the layout of GRPO's trainers.

    Returns:
        input_ids and attention_mask [C, P + L], completion_mask [C, L]; each completion ends with the
        tokenizer's end token, and short ones are padded on the right.
    """
    turn = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = [
        [*ids, tokenizer.eos_token_id]
        for ids in tokenizer(completions, add_special_tokens=False)["input_ids"]
    ]
    padding = [max(map(len, rows)) - len(row) for row in rows]
    ids = [prompt_ids + row + [tokenizer.pad_token_id] * pad for row, pad in zip(rows, padding, strict=True)]
    mask = torch.tensor([[1] * len(row) + [0] * pad for row, pad in zip(rows, padding, strict=True)])
    attention = torch.cat([mask.new_ones(len(rows), len(prompt_ids)), mask], dim=1)
    return {"input_ids": torch.tensor(ids), "attention_mask": attention, "completion_mask": mask}


def token_logprobs(
    model: Any,
    input_ids: Tensor,
    completion_length: int,
    attention_mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Return log-probabilities of the last C = `completion_length` tokens: input_ids [B, P + C] to [B, C].

    Prompts are padded on the left (`attention_mask` 0 there), so that all completions begin in the same
    column.
    """
    outputs = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    # The logits at a position predict the token after it.
    logits = outputs.logits[:, -completion_length - 1 : -1].float() / temperature
    tokens = input_ids[:, -completion_length:]
    return logits.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def importance_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """Return p_new / p_old of the sampled tokens [B, C], or of whole completions [B, 1] for level "sequence".

    The ratio of a sequence is the geometric mean of its tokens' (GSPO, equation 7).
    """
    difference = logprobs - old_logprobs
    if level == "token":
        return difference.exp()
    return ((difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)).exp()


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    loss_type: str = "dapo",
    *,
    max_completion_length: int | None = None,
    beta: float = 0.0,
    reference_logprobs: Tensor | None = None,
    importance_sampling_level: str = "token",
) -> Tensor:
    """Return the loss of one batch, a scalar.

    Args:
        logprobs: of the sampled tokens under the model that is trained, [B, C], with gradient.
        old_logprobs: of the same tokens under the model that sampled them, [B, C].
        advantages: [B].
        mask: 1 for tokens of the completion, 0 for padding, [B, C].
        epsilon_low, epsilon_high: the ratio is clipped to 1 - epsilon_low and 1 + epsilon_high.
        loss_type: "grpo" mean over each completion, then over completions; "bnpo" and "dapo" mean over all
            tokens (of the micro-batch and of the whole batch: here the same); "dr_grpo" sum over
            `max_completion_length`; "cispo" clips the weight and not the loss.
        beta: weight of the KL divergence to the model of `reference_logprobs` [B, C]: Schulman's k3
            estimator, times the ratio because the old model sampled the tokens (DeepSeek-V3.2; the default
            in TRL 1.16).
        importance_sampling_level: "sequence" is GSPO, with loss_type "grpo" and an epsilon of about 1e-4.

    Raises:
        ValueError: unknown loss_type, dr_grpo without max_completion_length, or beta without
            reference_logprobs.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type is {loss_type!r}; allowed: {', '.join(LOSS_TYPES)}")
    ratio = importance_ratios(logprobs, old_logprobs, mask, importance_sampling_level)
    advantages = advantages.unsqueeze(1)  # the same for every token of a completion
    if loss_type == "cispo":
        loss = -ratio.clamp(max=epsilon_high).detach() * advantages * logprobs
    else:
        clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
        loss = -torch.min(ratio * advantages, clipped * advantages)
    if beta:
        if reference_logprobs is None:
            raise ValueError("beta needs reference_logprobs")
        difference = reference_logprobs - logprobs
        divergence = difference.exp() - difference - 1
        loss = loss + beta * divergence * ratio
    if loss_type == "grpo":
        return ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if loss_type == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("dr_grpo needs max_completion_length")
        return (loss * mask).sum() / (loss.size(0) * max_completion_length)
    return (loss * mask).sum() / mask.sum().clamp(min=1)
