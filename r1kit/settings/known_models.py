"""Facts about hub models and datasets, so that the plan and the rules need no download.

- Shapes of the hub models that profiles name, from each model's config.json. A test compares them with the
  published totals (7.615 / 7.070 billion for Qwen2.5-7B, 8.030 / 7.505 for Llama-3.1-8B, 4.022 / 4.022 for
  Qwen3-4B, 1.544 / 1.544 for Qwen2.5-1.5B; all parameters / those in matrix products).
- Lengths: a histogram of document lengths, and the effect of padding, packing and truncation. A training step
  costs its slots, not its tokens, so the gain of packing is the ratio of two fill rates.
- Lengths of each data source's traces, measured here or derived from published means.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from r1kit.settings.errors import Problem, SettingsError


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder with grouped-query attention and SwiGLU, in the names of transformers' configs.

    `eos_token` is the tokenizer's end token; `turn_end` is written by the chat template after an answer.
    Empty: unknown.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    head_dim: int = 0
    attention_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    eos_token: str = ""
    turn_end: str = ""

    @property
    def width(self) -> int:
        """Dimensions of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.width

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, which is that of all value heads."""
        return self.num_key_value_heads * self.width

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer that take part in matrix products."""
        h = self.hidden_size
        attention = h * (self.query_size + 2 * self.key_value_size) + self.query_size * h
        return attention + 3 * h * self.intermediate_size

    @property
    def matrix_parameters(self) -> int:
        """Parameters in matrix products: the layers and the LM head, tied or not; no embedding look-up."""
        return self.num_hidden_layers * self.layer_matrices + self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters; a tied LM head counts once."""
        h = self.hidden_size
        bias = self.query_size + 2 * self.key_value_size if self.attention_bias else 0
        norms = 2 * h + (2 * self.width if self.qk_norm else 0)
        embeddings = self.vocab_size * h * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * (self.layer_matrices + bias + norms) + h + embeddings

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in bf16, all layers: 57,344 bytes for Qwen2.5-7B."""
        return 2 * self.num_hidden_layers * self.key_value_size * 2


QWEN_BASE = {"eos_token": "<|endoftext|>", "turn_end": "<|im_end|>", "attention_bias": True}
QWEN_7B = ModelShape(3584, 18944, 28, 28, 4, 152064, 131072, rope_theta=1e6, **QWEN_BASE)
QWEN_1_5B = ModelShape(1536, 8960, 28, 12, 2, 151936, 131072, True, rope_theta=1e6, **QWEN_BASE)
QWEN_0_5B = ModelShape(896, 4864, 24, 14, 2, 151936, 32768, True, rope_theta=1e6, **QWEN_BASE)

KNOWN_MODELS: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-7B": QWEN_7B,
    "Qwen/Qwen2.5-7B-Instruct": replace(QWEN_7B, max_position_embeddings=32768, eos_token="<|im_end|>"),
    # 4,096 positions and theta 10,000: open-r1 issue 469; that is why open-r1 made the RoPE-300k copy.
    "Qwen/Qwen2.5-Math-7B": replace(QWEN_7B, max_position_embeddings=4096, rope_theta=1e4),
    "open-r1/Qwen2.5-Math-7B-RoPE-300k": replace(QWEN_7B, max_position_embeddings=32768, rope_theta=3e5),
    # DeepSeek's distills end with a token of their own, and their template writes the same.
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": replace(
        QWEN_7B,
        rope_theta=1e4,
        eos_token="<｜end▁of▁sentence｜>",
        turn_end="<｜end▁of▁sentence｜>",
    ),
    "Qwen/Qwen2.5-1.5B": QWEN_1_5B,
    "Qwen/Qwen2.5-1.5B-Instruct": replace(QWEN_1_5B, max_position_embeddings=32768, eos_token="<|im_end|>"),
    "Qwen/Qwen2.5-Math-1.5B": replace(QWEN_1_5B, max_position_embeddings=4096, rope_theta=1e4),
    "Qwen/Qwen2.5-0.5B": QWEN_0_5B,
    "Qwen/Qwen2.5-0.5B-Instruct": replace(QWEN_0_5B, eos_token="<|im_end|>"),
    "Qwen/Qwen3-4B": replace(
        ModelShape(2560, 9728, 36, 32, 8, 151936, 40960, True, 128, qk_norm=True, rope_theta=1e6),
        eos_token="<|im_end|>",
        turn_end="<|im_end|>",
    ),
    "meta-llama/Llama-3.1-8B": ModelShape(
        4096, 14336, 32, 32, 8, 128256, 131072, rope_theta=5e5, eos_token="<|end_of_text|>"
    ),
}

LONGER = {"Qwen/Qwen2.5-Math-7B": "open-r1/Qwen2.5-Math-7B-RoPE-300k"}
"""The same weights with room for longer texts."""


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Read the shape from a config.json (or from base.yaml's architecture with its `vocab_size`).

    Raises:
        KeyError: with the missing key.
    """
    rope = config.get("rope_parameters") or {}
    return ModelShape(
        **{
            name: config[name]
            for name in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "vocab_size",
                "max_position_embeddings",
            )
        },
        tie_word_embeddings=bool(config.get("tie_word_embeddings")),
        head_dim=config.get("head_dim") or 0,
        attention_bias=config.get("model_type", "qwen2") == "qwen2",
        qk_norm=config.get("model_type") == "qwen3",
        rope_theta=float(config.get("rope_theta") or rope.get("rope_theta") or 1e4),
    )


SAMPLE = 2000
"""Documents that packing is tried on: enough for a fill within 1%, packed in a hundredth of a second."""


@dataclass(frozen=True)
class Lengths:
    """A histogram: `share[i]` of the documents have `tokens[i]` tokens; ascending, shares sum to 1."""

    tokens: tuple[int, ...]
    share: tuple[float, ...]
    source: str = ""

    @property
    def mean(self) -> float:
        """Mean tokens of a document."""
        return sum(n * p for n, p in zip(self.tokens, self.share, strict=True))

    @property
    def attended(self) -> float:
        """sum(n^2) / sum(n): the length that attention costs as much as."""
        return sum(n * n * p for n, p in zip(self.tokens, self.share, strict=True)) / self.mean

    def cut(self, most: int) -> Lengths:
        """Truncate every document to `most` tokens."""
        below = [(n, p) for n, p in zip(self.tokens, self.share, strict=True) if n < most]
        rest = 1 - sum(p for _, p in below)
        kept = [*below, (most, rest)] if rest > 1e-12 else below
        return Lengths(tuple(n for n, _ in kept), tuple(p for _, p in kept), self.source)

    def dropped(self, most: int) -> float:
        """Return the share of all tokens that truncation to `most` removes."""
        return 1 - self.cut(most).mean / self.mean

    def longer(self, most: int) -> float:
        """Return the share of documents longer than `most`."""
        return sum(p for n, p in zip(self.tokens, self.share, strict=True) if n > most)

    def quantiles(self, count: int) -> list[int]:
        """Return `count` lengths spread evenly over the distribution."""
        sums, total = [], 0.0
        for p in self.share:
            total += p
            sums.append(total)
        last = len(sums) - 1
        return [
            self.tokens[min(last, bisect.bisect_left(sums, (i + 0.5) / count * total))] for i in range(count)
        ]


def from_counts(pairs: Iterable[Sequence[float]], source: str) -> Lengths:
    """Make a histogram from (tokens, documents) pairs in any order.

    Raises:
        ValueError: there is no document, or a length is not positive.
    """
    counts: dict[int, float] = {}
    for tokens, documents in pairs:
        counts[int(tokens)] = counts.get(int(tokens), 0) + documents
    total = sum(counts.values())
    if total <= 0 or min(counts) <= 0:
        raise ValueError(f"{source}: a length histogram is a list of [tokens, documents], all positive")
    ordered = sorted(counts)
    return Lengths(tuple(ordered), tuple(counts[n] / total for n in ordered), source)


def read_lengths(path: str | Path) -> Lengths:
    """Read a measured histogram from a JSON file: [[tokens, documents], ...].

    Raises:
        SettingsError: the file holds no such list.
    """
    try:
        return from_counts(json.loads(Path(path).read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TypeError) as error:
        form = "a JSON list of [tokens, documents]"
        raise SettingsError([Problem("--lengths", str(path), found=str(error), allowed=form)]) from error


def log_normal(parts: Sequence[tuple[float, float]], spread: float, source: str) -> Lengths:
    """Make a mixture of log-normals, one per (documents, mean tokens), with one `spread` (sigma of the log).

    It is an assumption where only means are published; prefer a measured histogram.
    """
    pairs, normal = [], NormalDist()
    for documents, mean in parts:
        centre = math.log(mean) - spread**2 / 2
        points = [(i + 0.5) / 200 for i in range(200)]
        raw = [math.exp(centre + spread * normal.inv_cdf(p)) for p in points]
        scale = mean * len(raw) / sum(raw)  # the cut tails would otherwise lower the mean
        pairs += [(max(1, round(n * scale)), documents / len(raw)) for n in raw]
    return from_counts(pairs, source)


def padded_fill(lengths: Lengths, rows: int) -> float:
    """Return the share of slots that hold tokens when `rows` documents are padded to the longest.

    The expected longest of n independent draws is exact: sum over x of x (F(x)^n - F(x-)^n).
    """
    longest, below = 0.0, 0.0
    total = sum(lengths.share)
    cumulated = 0.0
    for tokens, share in zip(lengths.tokens, lengths.share, strict=True):
        cumulated += share / total
        now = min(1.0, cumulated) ** rows
        longest += tokens * (now - below)
        below = now
    return lengths.mean / longest


def packed_fill(lengths: Lengths, row: int) -> float:
    """Return the share of slots filled by best-fit decreasing into rows of `row` tokens (TRL's `bfd`)."""
    rooms: list[int] = []  # ascending free slots of open rows
    documents = sorted((min(n, row) for n in lengths.quantiles(SAMPLE)), reverse=True)
    rows = 0
    for n in documents:
        place = bisect.bisect_left(rooms, n)
        if place == len(rooms):
            rows += 1
            room = row - n
        else:
            room = rooms.pop(place) - n
        if room:
            bisect.insort(rooms, room)
    return sum(documents) / (rows * row)


@dataclass(frozen=True)
class Packing:
    """Gain of packing: `padded` and `packed` are shares of slots that hold tokens, `gain` is their ratio."""

    padded: float
    packed: float
    gain: float
    bound: float
    dropped: float


def packing_gain(lengths: Lengths, row: int, rows: int, strategy: str = "bfd") -> Packing:
    """Compare padding and packing at the same row length and rows per batch.

    `bound` is 1 / padded fill, the largest possible gain. `dropped` is the share of tokens that is truncated
    (0 for `wrapped` and `bfd_split`, which keep every token).
    """
    kept = lengths.cut(row)
    padded = padded_fill(kept, rows)
    packed = 1.0 if strategy in ("wrapped", "bfd_split") else packed_fill(kept, row)
    dropped = 0.0 if strategy in ("wrapped", "bfd_split") else lengths.dropped(row)
    return Packing(padded, packed, packed / padded, 1 / padded, dropped)


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
    """List (documents, mean tokens) of one entry of `traces_from`; empty if unknown."""
    weight, most = source.get("weight", 1.0), source.get("most") or float("inf")
    if source["dataset"] == "open-r1/Mixture-of-Thoughts":
        config = source.get("config", "default")
        chosen = list(MIXTURE.values()) if config == "all" else [MIXTURE[config]] if config in MIXTURE else []
    elif source["dataset"] == "open-r1/OpenR1-Math-220k":
        chosen = [(OPENR1_MATH.get(source.get("config", "default"), 0), MIXTURE["math"][1])]
    elif source["dataset"] == "open-r1/codeforces-cots":
        chosen = [CODEFORCES]
    else:
        return []  # a local file
    total = sum(documents for documents, _ in chosen) * weight
    scale = weight * min(1.0, most / total) if total else 0.0
    return [(documents * scale, mean) for documents, mean in chosen]


def trace_lengths(data: Mapping[str, Any]) -> Lengths | None:
    """Return the length histogram of data.yaml's traces, prompt included; None if unknown.

    Args:
        data: the values of data.yaml with either `source`.
    """
    if data["source"] == "stories":
        return from_counts(STORIES, "3,000 traces of cpu-tiny, measured 2026-11-24")
    parts = [part for source in data["traces_from"] for part in parts_of(source)]
    if not parts:
        return None
    return log_normal(parts, SPREAD, f"published means, log-normal with spread {SPREAD}: an assumption")


def trace_count(data: Mapping[str, Any]) -> int:
    """Count the traces of one epoch of SFT."""
    if data["source"] == "stories":
        return round(data["traces"] * KEPT)
    return round(sum(n for source in data["traces_from"] for n, _ in parts_of(source)))
