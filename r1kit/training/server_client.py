"""TRL's client of a vLLM server without its retries and endless waits, and several servers as one.

It needs no vLLM in the trainer's environment (TRL's constructor refuses without) unless weights move by NCCL.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trl.generation.vllm_client import VLLMClient

from r1kit.training.server_session import (
    BoundedSession,
    Bounds,
    ServerRefused,
    ServerTrouble,
    addresses,
    content,
)


class ServerClient(VLLMClient):
    """TRL's client of one server; requests that fail raise ServerTrouble."""

    def __init__(self, url: str, bounds: Bounds | None = None, api_key: str = "", group_port: int = 51216):
        self.base_url = url.rstrip("/")
        self.host = self.base_url.split("://")[-1].split(":")[0]
        self.group_port = group_port
        self.communicator = None
        self._updating_weights = False
        self.session = BoundedSession(bounds or Bounds(), api_key)
        self.model = ""

    def ask_model(self) -> str:
        """The served model's id, remembered for the requests to come."""
        self.model = self._get(f"{self.base_url}/v1/models")["data"][0]["id"]
        return self.model

    def healthy(self) -> bool:
        """Whether /health answers 200 at once."""
        try:
            return self.session.get(f"{self.base_url}/health", timeout=5.0).status_code == 200
        except ServerTrouble:
            return False

    def worker_call(self, method: str, **kwargs: Any) -> list[dict[str, Any]]:
        """Call a method of `r1kit.serving.weights.WeightVersions` in every worker; one answer a worker.

        Raises:
            ServerRefused: the method failed, or the server runs without that extension.
        """
        answer = self._post(f"{self.base_url}/collective_rpc", json={"method": method, "kwargs": kwargs})
        results = answer.get("results") or []
        for result in results:
            if not isinstance(result, dict) or "error" in result:
                raise ServerRefused(f"the server's {method} failed: {result}")
        return results

    def reset_prefix_cache_checked(self) -> bool:
        """Forget the keys and values of the old weights; False if the server would not."""
        return bool(self._post(f"{self.base_url}/reset_prefix_cache").get("success", True))

    def _get(self, url: str, **kwargs: Any) -> dict:
        return content(self.session.get(url, **kwargs), self.base_url)

    def _post(self, url: str, **kwargs: Any) -> dict:
        return content(self.session.post(url, **kwargs), self.base_url)


class Replicas:
    """Several servers with the same model as one: prompts are divided among them, weights go to all."""

    def __init__(self, clients: list[ServerClient]):
        self.clients = clients

    def each(self, call: Any) -> list[Any]:
        """`call(client)` for every server at once, in order; the first failure is raised after all ended."""
        if len(self.clients) == 1:
            return [call(self.clients[0])]
        with ThreadPoolExecutor(len(self.clients)) as pool:
            futures = [pool.submit(call, client) for client in self.clients]
        return [future.result() for future in futures]

    def generate(self, prompts: list[list[int]], **sampling: Any) -> dict[str, list]:
        """As TRL's client, prompts and completions in order. Returns one row a completion, prompt-major."""
        size = -(-len(prompts) // len(self.clients))
        shares = {
            id(client): prompts[start : start + size]
            for client, start in zip(self.clients, range(0, len(prompts), size), strict=False)
        }
        busy = Replicas([client for client in self.clients if shares.get(id(client))])
        parts = busy.each(lambda client: client.generate(prompts=shares[id(client)], **sampling))
        joined = {name: [row for part in parts for row in part[name]] for name in parts[0] if parts[0][name]}
        if len(joined["completion_ids"]) != len(prompts) * sampling.get("n", 1):
            found, n = len(joined["completion_ids"]), sampling.get("n", 1)
            raise ServerRefused(f"{len(prompts)} prompts x {n} completions were asked, {found} came")
        return joined


def connect(folder: Path, bounds: Bounds, group_port: int = 51216) -> Replicas:
    """Clients of the servers that `folder`/server.json names."""
    urls, secret = addresses(folder)
    return Replicas([ServerClient(url, bounds, secret, group_port + i) for i, url in enumerate(urls)])
