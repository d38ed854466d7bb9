"""Rejection sampling: keep the traces whose final answer a verifier accepts (DeepSeek-R1, section 2.3.3).

The verifier is passed in, because rewards live on a floor above: any function with TRL's reward signature
will do, usually ``r1kit.rewards.accuracy_reward``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Judge = Callable[..., list[float | None]]


def keep_verified(
    rows: Sequence[dict[str, Any]], judge: Judge
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split trace rows into (kept, removed) by ``judge(completions, solution=...)``; sets each row's
    ``verified``.

    ``judge`` gets all completions at once, each as TRL gives it (``[{"role": "assistant", "content":
    ...}]``), and returns 1.0 for right. A row it could not judge (None) is removed: what is not verified is
    not kept. Raises ValueError if the judge returns another number of verdicts than rows.
    """
    completions = [[row["messages"][-1]] for row in rows]
    verdicts = judge(completions, solution=[row["solution"] for row in rows])
    if len(verdicts) != len(rows):
        raise ValueError(f"the judge returned {len(verdicts)} verdicts for {len(rows)} traces")
    kept, removed = [], []
    for row, verdict in zip(rows, verdicts, strict=True):
        verified = verdict is not None and verdict >= 1.0
        (kept if verified else removed).append({**row, "verified": verified})
    return kept, removed
