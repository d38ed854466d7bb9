"""What every reward needs to know of TRL's completions: their text, their length, and who shares a prompt.

Arguments of the rewards that a factory makes: an error says the name, what was found, what is allowed.

`r1kit.settings` refuses bad settings with file and line before this; these hold for a call from a notebook.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence

from r1kit.settings.errors import nearest_name


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


def whole_number(name: str, found: object, least: int, most: int | None = None) -> int:
    """Found, if it is a whole number between least and most (no bound if None).

    Raises:
        ValueError: it is not.
    """
    whole = isinstance(found, int) and not isinstance(found, bool)
    if whole and found >= least and (most is None or found <= most):
        return found
    allowed = (
        f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    )
    raise ValueError(f"{name} is {found!r}: allowed is {allowed}")


def finite_number(name: str, found: object, most: float = math.inf) -> float:
    """Found as a float, if it is a finite number of at most `most`.

    Raises:
        ValueError: it is not.
    """
    if (
        isinstance(found, (int, float))
        and not isinstance(found, bool)
        and math.isfinite(found)
        and found <= most
    ):
        return float(found)
    bound = "" if most == math.inf else f" of at most {most:g}"
    raise ValueError(f"{name} is {found!r}: allowed is a finite number{bound}")


def one_of(name: str, found: object, allowed: Iterable[str]) -> str:
    """Found, if it is one of the allowed words.

    Raises:
        ValueError: it is not; the nearest allowed word is named.
    """
    words = list(allowed)
    if found in words:
        return found
    near = nearest_name(str(found), words)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"{name} is {found!r}: allowed is {', '.join(map(repr, words))}{hint}")
