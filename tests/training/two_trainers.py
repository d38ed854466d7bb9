"""Two processes that train on chosen groups: `python -m tests.training.two_trainers WORLD FOLDER`.

They are forked once the libraries are loaded, and write what each of them knows to `FOLDER/<rank>.json`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path


def train(world: Path, folder: Path, rank: int, port: int) -> None:
    """Two steps of rank `rank`."""
    import torch

    from r1kit.settings.training import CurriculumSettings, DynamicSamplingSettings
    from r1kit.training.rl.curriculum import Curriculum
    from tests.training.test_dynamic_sampling import SIZE, build

    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    trainer = build(
        world, output_dir=str(folder / "unused"), max_steps=2, save_strategy="no", logging_steps=1
    )
    settings = CurriculumSettings(strategy="pass_rate")
    trainer.curriculum = Curriculum(settings, trainer.train_dataset["level"], seed=0)
    trainer.dynamic_sampling = DynamicSamplingSettings(max_extra=1.0)
    trainer.train()
    weights = torch.nn.utils.parameters_to_vector(
        trainer.accelerator.unwrap_model(trainer.model).parameters()
    )
    asked = [prompt[-1]["content"] for prompt in trainer._logs["prompt"]]
    found = {
        "processes": trainer.accelerator.num_processes,
        "weights": weights.double().sum().item(),
        "state": trainer.sampling_state(),
        "whole_groups": all(len(set(asked[i : i + SIZE])) == 1 for i in range(0, len(asked), SIZE)),
        "judged_here": len(trainer.reward_funcs[0].tokens),
        "rows": [row for row in trainer.state.log_history if "reward" in row],
    }
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> int:
    """Fork both and wait; 0 if both ended well."""
    import r1kit.training.rl.trainer  # noqa: F401 - loaded once, before the fork

    world, folder = map(Path, sys.argv[1:])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in (0, 1):
        if (child := os.fork()) == 0:
            code = 1
            try:
                train(world, folder, rank, port)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    sys.exit(main())
