"""What makes two model folders one model for server and trainer: shape and tokens, not the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from r1kit.runs.files import read_json

# What transformers writes about the program that saved the model, not about the model.
NOT_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def model_fingerprint(model: str | Path) -> str:
    """16 hex digits over config.json and tokenizer.json of a model folder; "" for a hub id.

    Weights are left out: those of a server change with every sync.
    """
    folder = Path(model)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return ""
    kept = {key: value for key, value in config.items() if key not in NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(tokenizer.read_bytes())
    return digest.hexdigest()[:16]
