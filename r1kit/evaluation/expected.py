"""What published models score, as data: with its source and the harness that measured it.

open-r1's README, "Evaluating models" and "Reproducing DeepSeek's results": lighteval d3da6b9 on vLLM,
temperature 0.6, top_p 0.95, 32,768 tokens, bfloat16; 64, 4, 8 and 16 samples a problem. One README has the
same model twice (Qwen-7B: 51.3 / 93.5 / 52.4 and 50.8 / 94.5 / 50.5): so much two runs of one harness differ.
"""

from __future__ import annotations

from dataclasses import dataclass

OPEN_R1 = "open-r1 README (1416fa0), lighteval d3da6b9 + vLLM"
DEEPSEEK = "DeepSeek-R1's own report (arXiv 2501.12948), as quoted in open-r1's README"


@dataclass(frozen=True)
class Published:
    """pass@1 in [0, 1] of a model, benchmark -> score."""

    model: str
    source: str
    scores: dict[str, float]


def _published(model: str, source: str, aime24: float, math_500: float, gpqa: float, lcb: float) -> Published:
    percent = {"aime24": aime24, "math_500": math_500, "gpqa_diamond": gpqa, "lcb": lcb}
    return Published(model, source, {name: round(value / 100, 4) for name, value in percent.items()})


PUBLISHED: tuple[Published, ...] = (
    _published("open-r1/OpenR1-Distill-7B", OPEN_R1, 52.7, 89.0, 52.8, 39.4),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", OPEN_R1, 51.3, 93.5, 52.4, 37.4),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", DEEPSEEK, 55.5, 92.8, 49.1, 37.6),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", OPEN_R1, 30.7, 83.1, 35.8, 16.1),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", OPEN_R1, 65.9, 94.1, 61.5, 51.3),
    _published("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", OPEN_R1, 69.7, 95.6, 63.1, 56.0),
)

TARGETS = ("open-r1/OpenR1-Distill-7B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
"""What a 7B student of ours is held against."""


def published(benchmark: str, model: str = "") -> dict[str, float]:
    """Scores of a benchmark by model: of `model` if it is a published one, else of the TARGETS."""
    own = [entry for entry in PUBLISHED if model and entry.model.endswith(model.rstrip("/").split("/")[-1])]
    chosen = own or [entry for entry in PUBLISHED if entry.model in TARGETS and entry.source == OPEN_R1]
    return {
        entry.model + (" (DeepSeek's report)" if entry.source == DEEPSEEK else ""): entry.scores[benchmark]
        for entry in chosen
        if benchmark in entry.scores
    }
