"""A world small enough for a test: tokenizer, datasets and a model of 60,000 parameters, all made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ARCHITECTURE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def tokenizer():
    from r1kit.data import datasets, stories
    from r1kit.data.tokenizer import train_tokenizer

    traces = datasets.build_traces(100, 0)
    texts = stories.documents(100, 0) + [trace["messages"][1]["content"] for trace in traces]
    return train_tokenizer(texts, 400)


@pytest.fixture
def model(tokenizer):
    import torch

    from r1kit.training.pretrain import build_model

    torch.manual_seed(0)
    return build_model(ARCHITECTURE, tokenizer)


@pytest.fixture(scope="session")
def world(tokenizer, tmp_path_factory) -> Path:
    """Folder with tokenizer, corpus, traces, prompts and an untrained base model."""
    import torch
    from datasets import Dataset

    from r1kit.data import datasets, stories
    from r1kit.training.pretrain import build_model

    folder = tmp_path_factory.mktemp("world")
    tokenizer.save_pretrained(folder / "tokenizer")
    Dataset.from_dict({"text": stories.documents(80, 0)}).save_to_disk(str(folder / "corpus"))
    Dataset.from_list(datasets.build_traces(120, 0, [1, 2])).save_to_disk(str(folder / "traces"))
    Dataset.from_list(datasets.build_prompts(24, 0, [1, 2])).save_to_disk(str(folder / "prompts"))
    torch.manual_seed(0)
    build_model(ARCHITECTURE, tokenizer).save_pretrained(folder / "base")
    return folder


def write_job(folder: Path, world: Path, model: Path | None = None, **sections: dict) -> Path:
    """A job folder on `world`, starting from `model` (default: the untrained base)."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {name: str(world / name) for name in ("tokenizer", "corpus", "traces", "prompts")}
    inputs["model"] = os.path.relpath(model or world / "base", folder)
    content = {"profile": "test", "stage": "test", "run_id": "test", "inputs": inputs}
    (folder / "resolved.yaml").write_text(
        yaml.safe_dump({**content, "machine": {"device": "cpu"}, **sections}), encoding="utf-8"
    )
    return folder


def start(program: str, folder: Path, room: str = "training") -> subprocess.Popen:
    """The program of `room` on a job folder, its output in train.log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(folder / "train.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"r1kit.{room}.{program}", str(folder / "resolved.yaml")],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(program: str, folder: Path, room: str = "training") -> str:
    """Run the program to its end, which must be good, and return its log."""
    code = start(program, folder, room).wait(timeout=300)
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert code == 0, log
    return log


def rows(folder: Path) -> list[dict]:
    """The whole rows of metrics.jsonl so far."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
