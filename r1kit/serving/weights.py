"""Extension of vLLM's workers: load a version of the weights, and report which one is loaded.

The server is started with `--worker-extension-cls r1kit.serving.weights.WeightVersions`; vLLM adds the class
to its worker, and `/collective_rpc` calls its methods by name. vLLM's own `reload_weights` reads any file in
a folder and returns nothing; here the file is compared with its checksum first, and `r1kit_version` reports
what was loaded, so that a trainer knows whether it samples from the policy that it trains. vLLM 0.31's
`/get_weight_version` only repeats what the client has sent.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

from r1kit.runs.weight_versions import read_version

NOT_LOADED: dict[str, Any] = {"step": -1, "token": "", "checksum": ""}


class WeightVersions:
    """Methods added to vLLM's worker. They return errors as dicts: an exception would become an HTTP 500
    without its message."""

    def r1kit_load(self, folder: str) -> dict[str, Any]:
        """Load the version in `folder` after checking it; return version and seconds, or {"error"}."""
        start = time.perf_counter()
        try:
            version = read_version(folder)
            checked = time.perf_counter()
            self.r1kit_loaded = NOT_LOADED  # true until the last tensor is in place
            self.reload_weights(weights_path=folder)
            if hasattr(self, "model_runner"):
                repack_tied(self.model_runner.get_model())
            self.r1kit_loaded = version.as_dict()
        except Exception as error:  # of any kind: the trainer must get it
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}
        seconds = {"verify": checked - start, "load": time.perf_counter() - checked}
        return self.r1kit_loaded | {"seconds": seconds}

    def r1kit_stamp(self, step: int, token: str) -> dict[str, Any]:
        """Record the version of the weights that have just arrived by NCCL."""
        self.r1kit_loaded = NOT_LOADED | {"step": step, "token": token}
        return self.r1kit_loaded

    def r1kit_receive(self, length: int) -> dict[str, Any]:
        """Receive `length` float32 numbers through the NCCL group with the trainer; return their sum."""
        import torch

        try:
            tensor = torch.zeros(length, dtype=torch.float32, device=self.device)
            stream = torch.cuda.current_stream() if tensor.is_cuda else None
            self.weight_transfer_engine.model_update_group.broadcast(tensor, src=0, stream=stream)
            return {"sum": float(tensor.sum())}
        except Exception as error:  # no group, or NCCL's own: the trainer must get it
            return {"error": f"{type(error).__name__}: {error}"}

    def r1kit_version(self) -> dict[str, Any]:
        """Return the loaded version; its step is -1 before the first sync."""
        return getattr(self, "r1kit_loaded", NOT_LOADED)

    def r1kit_probe(self, folder: str) -> dict[str, Any]:
        """Read and check the small version in the sync folder, to see whether this worker reaches it."""
        try:
            return read_version(folder).as_dict()
        except Exception as error:  # permissions, another machine, a container without the mount
            return {"error": f"{type(error).__name__}: {error}"}


def repack_tied(model: Any) -> None:
    """Repack the weights of layers on a CPU that share another layer's.

    Incident, 2026-11-24 (vLLM 0.31 on a CPU, tied embeddings): `reload_weights` gave the embedding its new
    values, but the output head kept multiplying by the copy that oneDNN had packed when the server started.
    The answers were half old, half new: log-probabilities off by 0.01 after one step and 0.13 at most, while
    the mean importance ratio, which is 1 for any two policies, stayed at 0.998.
    """
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and weight is not None and weight.ndim == 2 and weight.numel():
            layer.quant_method.process_weights_after_loading(layer)
