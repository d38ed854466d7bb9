"""Weights by file beside a plain copy of the same bytes on the same medium, in one run.

The copy is what nobody could beat: `shutil.copyfile` of the finished file. Ours writes the same bytes from
the tensors, with a checksum; reading them back with that checksum is what every worker of the server does
before it loads. `python -m r1kit.bench.weight_sync [FOLDER] [--mb N]`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from r1kit.runs.weight_versions import WEIGHTS, drop_old, read_version
from r1kit.training.weight_file import Metadata, write_version

ROUNDS = 5
SHAPE = (1024, 1024)  # of one float32 tensor: 4 MiB


def bench(folder: str | Path = "/dev/shm", megabytes: int = 512, rounds: int = ROUNDS) -> dict[str, float]:
    """Print and return medians over `rounds`, which alternate between both ways.

    Returns:
        bytes, copy_seconds, write_seconds, verify_seconds, and ratio = write_seconds / copy_seconds.
    """
    tensors = [(f"layer.{i}", torch.randn(SHAPE)) for i in range(max(1, megabytes // 4))]
    metadata: Metadata = [(name, "float32", list(SHAPE)) for name, _ in tensors]
    seconds: dict[str, list[float]] = {"write": [], "verify": [], "copy": []}
    with tempfile.TemporaryDirectory(dir=folder, prefix="r1kit-bench-") as place:
        for step in range(rounds + 1):
            version, write = timed(lambda step=step: write_version(Path(place), step, metadata, tensors))
            _, verify = timed(lambda version=version: read_version(Path(place) / version.name))
            source, target = Path(place) / version.name / WEIGHTS, Path(place) / "copy"
            _, copy = timed(lambda source=source, target=target: shutil.copyfile(source, target))
            target.unlink()
            drop_old(place, "")
            if step:  # the first round warms up
                for name, value in (("write", write), ("verify", verify), ("copy", copy)):
                    seconds[name].append(value)
    result = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    result |= {"bytes": version.bytes, "ratio": result["write_seconds"] / result["copy_seconds"]}
    rate = version.bytes / 1e9
    print(f"{rate:.2f} GB on {folder}, median of {rounds}:")
    for name in ("copy", "write", "verify"):
        spent = result[f"{name}_seconds"]
        print(f"  {name:7s}{spent:7.3f} s  {rate / spent:6.2f} GB/s")
    print(f"  writing takes {result['ratio']:.2f} times a plain copy")
    return result


def timed(work) -> tuple:
    """The result of `work` and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", default="/dev/shm")
    parser.add_argument("--mb", type=int, default=512)
    options = parser.parse_args()
    bench(options.folder, options.mb)
