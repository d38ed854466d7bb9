"""What runs inside vLLM's workers: loading a version of the weights, and saying which one is loaded.

The server is started with `--worker-extension-cls r1kit.serving.weights.WeightVersions`; vLLM adds the class
to its worker, and `/collective_rpc` calls its methods by name. vLLM's own `reload_weights` reads whatever
lies in a folder and answers nothing; here the file is compared with its checksum first, and what was loaded
can be asked for at any time, so that a trainer knows whether it samples from the policy that it trains.
vLLM 0.31's `/get_weight_version` would only repeat what was told to it.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

from r1kit.runs.weight_versions import read_version

NOTHING: dict[str, Any] = {"step": -1, "token": "", "checksum": ""}


class WeightVersions:
    """Methods added to vLLM's worker. They return dicts: an exception would end the whole engine's request
    with an HTTP 500 that says nothing."""

    def r1kit_load(self, folder: str) -> dict[str, Any]:
        """Load the version in `folder` after checking it; the version and the seconds, or {"error"}."""
        start = time.perf_counter()
        try:
            version = read_version(folder)
            checked = time.perf_counter()
            self.r1kit_loaded = NOTHING  # true until the last tensor is in place
            self.reload_weights(weights_path=folder)
            if hasattr(self, "model_runner"):
                repack_tied(self.model_runner.get_model())
            self.r1kit_loaded = version.as_dict()
        except Exception as error:  # whatever it is, the trainer must hear it
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}
        seconds = {"verify": checked - start, "load": time.perf_counter() - checked}
        return self.r1kit_loaded | {"seconds": seconds}

    def r1kit_stamp(self, step: int, token: str) -> dict[str, Any]:
        """Remember that the weights which have just arrived by NCCL are this version."""
        self.r1kit_loaded = NOTHING | {"step": step, "token": token}
        return self.r1kit_loaded

    def r1kit_receive(self, length: int) -> dict[str, Any]:
        """Receive `length` float32 numbers through the NCCL group with the trainer; their sum."""
        import torch

        try:
            tensor = torch.zeros(length, dtype=torch.float32, device=self.device)
            stream = torch.cuda.current_stream() if tensor.is_cuda else None
            self.weight_transfer_engine.model_update_group.broadcast(tensor, src=0, stream=stream)
            return {"sum": float(tensor.sum())}
        except Exception as error:  # no group, or NCCL's own: the trainer must hear it
            return {"error": f"{type(error).__name__}: {error}"}

    def r1kit_version(self) -> dict[str, Any]:
        """The version loaded; step -1 before the first sync."""
        return getattr(self, "r1kit_loaded", NOTHING)

    def r1kit_probe(self, folder: str) -> dict[str, Any]:
        """Whether this worker sees the sync folder: read and check the small version in it."""
        try:
            return read_version(folder).as_dict()
        except Exception as error:  # permissions, another machine, a container without the mount
            return {"error": f"{type(error).__name__}: {error}"}


def repack_tied(model: Any) -> None:
    """Let layers on a CPU that share another layer's weights pack them again.

    Incident, 2026-11-24 (vLLM 0.31 on a CPU, tied embeddings): `reload_weights` gave the embedding its new
    values, but the output head kept multiplying by the copy that oneDNN had packed when the server started.
    The answers were half old, half new: log-probabilities off by 0.01 after one step and 0.13 at most, while
    the mean importance ratio, which is 1 for any two policies, stayed at 0.998.
    """
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and weight is not None and weight.ndim == 2 and weight.numel():
            layer.quant_method.process_weights_after_loading(layer)
