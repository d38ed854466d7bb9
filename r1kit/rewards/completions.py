"""What every reward needs to know of TRL's completions: their text, their length, and who shares a prompt."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence


def completion_text(completion: str | list[dict[str, str]]) -> str:
    """Text of one of TRL's completions: a string, or a conversation whose last message counts."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def completion_lengths(completions: Sequence, completion_ids: Sequence[Sequence[int]] | None) -> list[int]:
    """Lengths in tokens, or in characters where no token ids are given (a call by hand, outside TRL).

    Args:
        completions: B completions.
        completion_ids: B lists of token ids without padding, as TRL passes them to each reward; or None.

    Raises:
        ValueError: completion_ids is not one list of ids for each completion.
    """
    if completion_ids is None:
        return [len(completion_text(c)) for c in completions]
    if len(completion_ids) != len(completions):
        raise ValueError(f"completion_ids has {len(completion_ids)} rows for {len(completions)} completions")
    return [len(ids) for ids in completion_ids]


def groups_by_prompt(prompts: Sequence | None, rows: int) -> list[list[int]]:
    """Row numbers of each group, in order of first appearance; all rows are one group without prompts.

    Equal prompts are one group wherever they stand, so the order of the rows does not matter.

    Raises:
        ValueError: prompts is not one prompt for each row.
    """
    if prompts is None:
        return [list(range(rows))] if rows else []
    if len(prompts) != rows:
        raise ValueError(f"prompts has {len(prompts)} rows for {rows} completions")
    groups: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(_key(prompt), []).append(row)
    return list(groups.values())


def _key(prompt: object) -> Hashable:
    """A conversation as one string; images and the like by their repr, since JSON has none of them."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr)
