"""Measure an evaluation by a vLLM server against one answer after the other, on the same cores.

Both use the same model, problems and number of tokens. The time covers generation and judging; the server's
start is reported separately. A model with random weights (the default) writes until the last token every
time, so that both sides do the same work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1kit.data.datasets import build_heldout
from r1kit.evaluation.benchmarks import Question, story_questions
from r1kit.evaluation.checkpoints import evaluate_answering
from r1kit.evaluation.sampler import LocalSampler, load_checkpoint
from r1kit.evaluation.server_sampler import sampler_at
from r1kit.serving.server import serve
from r1kit.settings import load_profile

TARGET = 3.0
"""Ratio of problems per minute."""
PATIENCE = 1800.0  # seconds for the server's start, which can take long on a busy machine


def bench(
    model: str = "", profile: str = "cpu-cluster", problems: int = 64, samples: int = 4, tokens: int = 80,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Return the problems per minute of each way, their ratio, and the seconds of the server's start.

    Args:
        model: a model folder; "" makes random weights in the shape of the profile's base model.
        profile: its machine.yaml describes the server.
        problems: problems for the server; an eighth of them are answered one after the other.
    """
    settings = load_profile(profile)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model or str(_random_model(folder / "model", settings))
        questions = _questions(problems, samples)
        sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": tokens, "seed": 0, "greedy": False}
        loaded, tokenizer = load_checkpoint(model)
        few = questions[:: max(1, len(questions) // max(1, problems // 8))]
        alone = _minutes(lambda: evaluate_answering(LocalSampler(loaded, tokenizer, 1), few, sampling))
        batched = _minutes(
            lambda: evaluate_answering(LocalSampler(loaded, tokenizer, 64), questions, sampling)
        )
        start = time.monotonic()
        patient = settings.machine.server.model_copy(update={"start_seconds": PATIENCE})
        machine = settings.machine.model_copy(update={"server": patient})
        server = serve(folder / "server", machine, model, tell=tell)
        try:
            server.wait_ready()
            started = time.monotonic() - start
            source = sampler_at(server.folder, 128)
            evaluate_answering(source, [replace(few[0], samples=1)], sampling)  # the first request warms up
            served = _minutes(lambda: evaluate_answering(source, questions, sampling, folder=folder / "kept"))
        finally:
            server.stop()
    rates = {"one at a time": len(few) / alone, "batches of 64 here": len(questions) / batched}
    rates["vLLM server"] = len(questions) / served
    return {
        "problems_per_minute": rates,
        "ratio": rates["vLLM server"] / rates["one at a time"],
        "samples": samples,
        "tokens": tokens,
        "server_start_seconds": started,
    }


def table(measured: dict[str, Any]) -> str:
    """Write the measurements as text, with the target."""
    samples, tokens = measured["samples"], measured["tokens"]
    lines = [f"problems per minute, {samples} answers of at most {tokens} tokens each:"]
    lines += [f"  {name:20} {value:10,.1f}" for name, value in measured["problems_per_minute"].items()]
    ratio, start = measured["ratio"], measured["server_start_seconds"]
    lines.append(f"the server does {ratio:.1f} times as many as one at a time (target: {TARGET:g})")
    lines.append(f"it took {start:.0f} s to start, which is not counted")
    return "\n".join(lines)


def _questions(problems: int, samples: int) -> list[Question]:
    """Make story problems of levels 1 to 4, equally many of each."""
    each = max(1, problems // 4)
    questions = story_questions(build_heldout(each, 0, (1, 2, 3, 4)), each)
    return [replace(question, samples=samples) for question in questions]


def _random_model(folder: Path, settings: Any) -> Path:
    """Save a model in the shape of the profile's base model, with random weights, and its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r1kit.data import stories
    from r1kit.data.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(stories.documents(500, 0), settings.data.vocabulary_size)
    shape = settings.base.architecture.model_dump()
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _minutes(run: Callable[[], Any]) -> float:
    start = time.monotonic()
    run()
    return (time.monotonic() - start) / 60
