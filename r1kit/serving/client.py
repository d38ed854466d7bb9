"""TRL's client of a vLLM server without its retries and unlimited waits, and several servers as one.

It needs no vLLM in the trainer's environment (TRL's constructor refuses without) unless weights move by NCCL.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trl.generation.vllm_client import VLLMClient

from r1kit.serving.server import secret, server_state
from r1kit.serving.session import Bounds, ServerGone, ServerRefused, Session, content, served_model


class ServerClient(VLLMClient):
    """TRL's client of one server; requests that fail raise ServerTrouble."""

    def __init__(self, url: str, bounds: Bounds | None = None, api_key: str = "", group_port: int = 51216):
        self.base_url = url.rstrip("/")
        self.host = self.base_url.split("://")[-1].split(":")[0]
        self.group_port = group_port
        self.communicator = None
        self._updating_weights = False
        self.session = Session(bounds, api_key)
        self.model = ""

    def ask_model(self) -> str:
        """Return the served model's id, and remember it for later requests."""
        self.model = served_model(self.session, self.base_url)
        return self.model

    def worker_call(self, method: str, **kwargs: Any) -> list[dict[str, Any]]:
        """Call a method of `r1kit.serving.weights.WeightVersions` in every worker; one answer per worker.

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
        """Drop the keys and values of the old weights from the server's cache; return False if it refused."""
        return bool(self._post(f"{self.base_url}/reset_prefix_cache").get("success", True))

    def _get(self, url: str, **kwargs: Any) -> dict:
        return content(self.session.get(url, **kwargs))

    def _post(self, url: str, **kwargs: Any) -> dict:
        return content(self.session.post(url, **kwargs))


class Replicas:
    """Several servers with the same model as one: prompts are divided among them, weights go to all.

    `pids` are their processes in server.json: a restart has happened once it names other pids.
    """

    def __init__(self, clients: list[ServerClient], pids: list[int] | None = None):
        self.clients = clients
        self.pids = pids or []

    def each(self, call: Callable[[ServerClient], Any]) -> list[Any]:
        """Call `call(client)` for every server at once; the first failure is raised after all have ended."""
        return _all_at_once(call, [(client,) for client in self.clients])

    def generate(self, prompts: list[list[int]], **sampling: Any) -> dict[str, list]:
        """Generate as TRL's client does; the lists have one row per completion, prompt-major.

        Raises:
            ServerTrouble: a server failed, or gave another number of completions.
        """
        size = -(-len(prompts) // len(self.clients))
        shares = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        busy = list(zip(self.clients, shares, strict=False))  # more servers than prompts: some have none
        parts = _all_at_once(lambda client, share: client.generate(prompts=share, **sampling), busy)
        joined = {name: [row for part in parts for row in part[name]] for name in parts[0] if parts[0][name]}
        if len(joined["completion_ids"]) != len(prompts) * sampling.get("n", 1):
            wanted = f"{len(prompts)} prompts x {sampling.get('n', 1)} completions"
            raise ServerRefused(f"{wanted} were requested, {len(joined['completion_ids'])} came")
        return joined


def _all_at_once(call: Callable[..., Any], arguments: list[tuple]) -> list[Any]:
    if len(arguments) == 1:
        return [call(*arguments[0])]
    with ThreadPoolExecutor(len(arguments)) as pool:
        futures = [pool.submit(call, *each) for each in arguments]
    return [future.result() for future in futures]


def connect(folder: str | Path, bounds: Bounds, group_port: int = 51216) -> Replicas:
    """Return clients of the servers in `folder`/server.json, after asking each for its model.

    Raises:
        ServerTrouble: the file names no server, or one does not answer.
    """
    state, key = server_state(folder), secret(folder)
    if not state.get("urls"):
        raise ServerGone(f"{folder}/server.json names no server")
    clients = [ServerClient(url, bounds, key, group_port + i) for i, url in enumerate(state["urls"])]
    for client in clients:
        client.ask_model()
    return Replicas(clients, state.get("pids"))
