"""GRPO whose processes shard their weights on a CPU: accelerate 1.15 would silently train with DDP there.

torch can (gloo); accelerate only asks for it where it has found GPUs. This program makes up for that one
question, so that all that follows is exercised: sharded training, the gathering of weights for the server,
checkpoints, the final model.
"""

from __future__ import annotations

import sys
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState

from r1kit.training import grpo, program

plain = AcceleratorState.__init__


def sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """As accelerate's, which forgets the plugin on a CPU."""
    plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = sharded
    sys.exit(program.run(grpo.train))
