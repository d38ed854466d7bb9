"""Prompts to be answered: which conversation a row asks, under which name, and with which seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1kit.data.format import user_prompt
from r1kit.settings.generation import SamplingSettings

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A row of the prompt set and the conversation that asks it."""

    prompt_id: str
    messages: Conversation
    row: Mapping[str, Any]


def prompts_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Prompt]:
    """The prompts of a set, each once, in order; a row that asks what an earlier one asked is passed over."""
    seen: set[str] = set()
    for row in rows:
        messages = conversation(row)
        prompt_id = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
        if prompt_id not in seen:
            seen.add(prompt_id)
            yield Prompt(prompt_id, messages, row)


def conversation(row: Mapping[str, Any]) -> Conversation:
    """What a row asks: its `prompt` (text or turns), its `messages` up to the answer, or its `problem`.

    Raises:
        ValueError: it has none of them, or nobody asks anything in them.
    """
    prompt = row.get("prompt") or row.get("messages") or row.get("problem")
    if isinstance(prompt, str):
        return user_prompt(prompt)
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt or ()]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(f"a row asks nothing in prompt, messages or problem: {str(dict(row))[:200]}")
    return turns


def request_of(messages: Conversation, sampling: SamplingSettings) -> Conversation:
    """The turns that are sent: with the system prompt, and the instruction after the last question."""
    *before, last = messages
    if sampling.instruction:
        last = {**last, "content": f"{last['content']}\n\n{sampling.instruction}"}
    return [*([{"role": "system", "content": sampling.system}] if sampling.system else []), *before, last]


def seed_of(prompt_id: str, sample: int, sampling: SamplingSettings) -> int | None:
    """A sample's seed, 31 bits."""
    if sampling.seed is None:
        return None
    text = f"{sampling.seed} {prompt_id} {sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
