"""Text, length and group of TRL's completions, and checks of a reward factory's arguments.

The checks raise ValueError with the argument's name, what was found and what is allowed. `r1kit.settings`
refuses bad settings earlier, with file and line; the checks here are for calls from a notebook.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence

from r1kit.settings.errors import nearest_name


def completion_text(completion: str | list[dict[str, str]]) -> str:
    """Return the text of one of TRL's completions: the string, or the last message of the conversation."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def completion_lengths(completions: Sequence, completion_ids: Sequence[Sequence[int]] | None) -> list[int]:
    """Return B lengths in tokens, or in characters without token ids (a direct call, outside TRL).

    Args:
        completions: B completions.
        completion_ids: B lists of token ids without padding, as TRL passes them to each reward; or None.

    Raises:
        ValueError: completion_ids does not have B rows.
    """
    if completion_ids is None:
        return [len(completion_text(c)) for c in completions]
    if len(completion_ids) != len(completions):
        raise ValueError(f"completion_ids has {len(completion_ids)} rows for {len(completions)} completions")
    return [len(ids) for ids in completion_ids]


def groups_by_prompt(prompts: Sequence | None, rows: int) -> list[list[int]]:
    """Return the row numbers of each group, in order of first appearance; without prompts, one group of all.

    Rows with equal prompts are one group even if they are not adjacent.

    Raises:
        ValueError: prompts does not have `rows` rows.
    """
    if prompts is None:
        return [list(range(rows))] if rows else []
    if len(prompts) != rows:
        raise ValueError(f"prompts has {len(prompts)} rows for {rows} completions")
    groups: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        # JSON has no images and the like: their repr stands for them.
        key = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def whole_number(name: str, found: object, least: int, most: int | None = None) -> int:
    """Return `found` if it is a whole number from least to most (None: no bound), else raise ValueError."""
    whole = isinstance(found, int) and not isinstance(found, bool)
    if whole and found >= least and (most is None or found <= most):
        return found
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ValueError(f"{name} is {found!r}: allowed is a whole number {bounds}")


def finite_number(name: str, found: object, most: float = math.inf) -> float:
    """Return `found` as a float if it is a finite number of at most `most`, else raise ValueError."""
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if number and math.isfinite(found) and found <= most:
        return float(found)
    bound = "" if most == math.inf else f" of at most {most:g}"
    raise ValueError(f"{name} is {found!r}: allowed is a finite number{bound}")


def one_of(name: str, found: object, allowed: Iterable[str]) -> str:
    """Return `found` if it is an allowed word, else raise a ValueError that names the nearest one."""
    words = list(allowed)
    if found in words:
        return found
    near = nearest_name(str(found), words)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"{name} is {found!r}: allowed is {', '.join(map(repr, words))}{hint}")
