"""Arguments of the rewards that a factory makes: an error says the name, what was found, what is allowed.

`r1kit.settings` refuses bad settings with file and line before this; these hold for a call from a notebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from r1kit.settings.errors import nearest_name


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
