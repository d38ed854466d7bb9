"""What is known of the lengths of each data source's traces: measured here, or published means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1kit.settings.lengths import Lengths, from_counts, log_normal

# 3,000 verified traces of cpu-tiny with their prompts, by its tokenizer, 2026-11-24.
STORIES = (
    (42, 455), (48, 1068), (54, 603), (60, 165), (66, 297), (72, 41), (78, 260), (84, 111),
)  # fmt: skip
# The longest prompt and answer among them.
STORY_PROMPT, STORY_ANSWER = 36, 46
# Rows and mean tokens of Mixture-of-Thoughts: the sizes on its card (3.87, 1.60, 1.59 GB) at 3.49 bytes a
# token, which is 7.06 GB over the 2.02 billion tokens that the guide packed.
MIXTURE = {"code": (83_070, 13_400), "math": (93_733, 4_900), "science": (172_514, 2_600)}
# A fifth of CodeForces-CoTs exceeds 20,000 tokens (open-r1's third update): a log-normal of that mean does so
# with a spread of about 0.7. Taken for all three; a measured histogram would be better.
SPREAD = 0.7
# open-r1's card: about 100,000 traces; their mean is taken from Mixture-of-Thoughts' part on code.
CODEFORCES = (100_000, 13_400)
# Problems of its parts (its card); the traces are those of Mixture-of-Thoughts' mathematics.
OPENR1_MATH = {"default": 93_733, "all": 225_129, "extended": 131_396}
KEPT = 0.74
"""Share of cpu-tiny's traces that rejection sampling leaves: 10,333 of 14,000, 2026-11-24."""


def parts_of(source: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(documents, mean tokens) of one entry of `traces_from`; empty where nothing is known."""
    weight, most = source.get("weight", 1.0), source.get("most") or float("inf")
    if source["dataset"] == "open-r1/Mixture-of-Thoughts":
        config = source.get("config", "default")
        chosen = list(MIXTURE.values()) if config == "all" else [MIXTURE[config]] if config in MIXTURE else []
    elif source["dataset"] == "open-r1/OpenR1-Math-220k":
        chosen = [(OPENR1_MATH.get(source.get("config", "default"), 0), MIXTURE["math"][1])]
    elif source["dataset"] == "open-r1/codeforces-cots":
        chosen = [CODEFORCES]
    else:
        return []  # a file of one's own
    total = sum(documents for documents, _ in chosen) * weight
    scale = weight * min(1.0, most / total) if total else 0.0
    return [(documents * scale, mean) for documents, mean in chosen]


def trace_lengths(data: Mapping[str, Any]) -> Lengths | None:
    """The length histogram of data.yaml's traces, prompt included; None where nothing is known.

    data: the values of data.yaml with either `source`.
    """
    if data["source"] == "stories":
        return from_counts(STORIES, "3,000 traces of cpu-tiny, measured 2026-11-24")
    parts = [part for source in data["traces_from"] for part in parts_of(source)]
    if not parts:
        return None
    return log_normal(parts, SPREAD, f"published means, log-normal with spread {SPREAD}: an assumption")


def trace_count(data: Mapping[str, Any]) -> int:
    """Traces of one epoch of SFT."""
    if data["source"] == "stories":
        return round(data["traces"] * KEPT)
    return round(sum(n for source in data["traces_from"] for n, _ in parts_of(source)))
