"""Speed of an evaluation through a vLLM server, against one completion at a time on the same cores.

Both sample as many tokens for the same problems from the same model. Generation and judging are measured; the
start of the server is reported apart. Unless a model is given its weights are random: it then generates up to
the last token, so that both sides have the same work.
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
START_SECONDS = 1800.0  # for the server's start, which is not measured: a busy machine takes long


def bench(
    model: str = "", profile: str = "cpu-cluster", problems: int = 64, samples: int = 4, tokens: int = 80,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure problems per minute both ways, their ratio, and the seconds until the server is ready.

    Args:
        model: a model folder; "" makes random weights in the shape of the profile's base model.
        profile: its machine.yaml describes the server.
        problems: evaluated through the server; an eighth of them one at a time.
    """
    settings = load_profile(profile)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model or str(random_model(folder / "model", settings))
        questions = story_sample(problems, samples)
        drawn = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": tokens, "seed": 0, "greedy": False}
        loaded, tokenizer = load_checkpoint(model)
        few = questions[:: max(1, len(questions) // max(1, problems // 8))]
        single = _minutes(lambda: evaluate_answering(LocalSampler(loaded, tokenizer, 1), few, drawn))
        batched = _minutes(lambda: evaluate_answering(LocalSampler(loaded, tokenizer, 64), questions, drawn))
        start = time.monotonic()
        patient = settings.machine.server.model_copy(update={"start_seconds": START_SECONDS})
        machine = settings.machine.model_copy(update={"server": patient})
        server = serve(folder / "server", machine, model, tell=tell)
        try:
            server.wait_ready()
            started = time.monotonic() - start
            sampler = sampler_at(server.folder, 128)
            evaluate_answering(sampler, [replace(few[0], samples=1)], drawn)  # the first request warms up
            served = _minutes(lambda: evaluate_answering(sampler, questions, drawn, folder=folder / "kept"))
        finally:
            server.stop()
    speeds = {
        "one at a time": len(few) / single,
        "batches of 64 here": len(questions) / batched,
        "vLLM server": len(questions) / served,
    }
    return {
        "problems_per_minute": speeds,
        "ratio": speeds["vLLM server"] / speeds["one at a time"],
        "samples": samples,
        "tokens": tokens,
        "server_start_seconds": started,
    }


def table(result: dict[str, Any]) -> str:
    """Return the numbers as text, with the target."""
    lines = [f"problems per minute, {result['samples']} answers of at most {result['tokens']} tokens each:"]
    lines += [f"  {name:20} {value:10,.1f}" for name, value in result["problems_per_minute"].items()]
    lines.append(f"the server does {result['ratio']:.1f} times as many as one at a time (target: {TARGET:g})")
    lines.append(f"it took {result['server_start_seconds']:.0f} s to start, which is not counted")
    return "\n".join(lines)


def story_sample(problems: int, samples: int) -> list[Question]:
    """Return story problems of levels 1 to 4, equally many of each."""
    each = max(1, problems // 4)
    questions = story_questions(build_heldout(each, 0, (1, 2, 3, 4)), each)
    return [replace(question, samples=samples) for question in questions]


def random_model(folder: Path, settings: Any) -> Path:
    """Save a model in the shape of the profile's base model, with random weights and a tokenizer."""
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
