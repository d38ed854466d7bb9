"""Talking to the vLLM server with bounds: TRL's client without its retries and endless waits.

TRL 1.16 posts a generation without a timeout and repeats the POST up to five times when the answer is cut
off, so a dying server gets the same 128 completions to do again, and a silent one hangs the training until
`ddp_timeout` (rl pitfall P3: `VLLMClient._post`). Here every request has a bound and is sent once; what to do
when it fails is decided by `server_generation`, which knows whether a restart is under way. It also needs no
vLLM in the trainer's environment (TRL's constructor refuses without) unless weights move by NCCL.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from trl.generation.vllm_client import VLLMClient

from r1kit.runs import outcome
from r1kit.runs.files import read_json

CONNECT = 10.0  # seconds; a machine that is there accepts within milliseconds
SHORT = 30.0  # seconds for a question that needs no work: health, model name, versions
LOG_LINES = 3
ERROR = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .*)$", re.MULTILINE)


class ServerTrouble(RuntimeError):
    """The server did not do what was asked; the message is one paragraph for people."""

    curable = False
    """Whether a restart of the server may help."""


class ServerGone(ServerTrouble):
    """Nobody listens, or the connection was cut."""

    curable = True


class ServerSilent(ServerTrouble):
    """The request was accepted and not answered within its bound."""


class ServerRefused(ServerTrouble):
    """It answered with an error."""


class WrongVersion(ServerTrouble):
    """It holds other weights than the trainer has just sent: it was restarted behind its address."""

    curable = True


@dataclass(frozen=True)
class Bounds:
    """Seconds that each kind of request may take."""

    generation: float = 600.0
    sync: float = 120.0

    def of(self, url: str) -> float:
        """The bound of a request to `url`."""
        if url.endswith(("/completions", "/generate")):
            return self.generation
        control = ("/collective_rpc", "_weights", "_weight_update", "_engine", "_cache", "/pause", "/resume")
        return self.sync if url.endswith(control) else SHORT


class BoundedSession(requests.Session):
    """A session whose requests end: with an answer, or with a ServerTrouble. It never sends twice."""

    def __init__(self, bounds: Bounds, api_key: str = ""):
        super().__init__()
        self.bounds = bounds
        self.trust_env = False  # a proxy for the outside world must not see 127.0.0.1
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """As requests', with the bound of `url`."""
        bound = self.bounds.of(url)
        kwargs.setdefault("timeout", (min(CONNECT, bound), bound))
        path = url.split("://", 1)[-1].partition("/")[2]
        try:
            return super().request(method, url, **kwargs)
        except requests.ConnectTimeout as error:
            raise ServerGone(f"{url} accepts no connection") from error
        except requests.Timeout as error:
            raise ServerSilent(
                f"The vLLM server accepted /{path} and did not answer within {bound:g} s"
            ) from error
        except requests.RequestException as error:
            raise ServerGone(f"The vLLM server was lost while it did /{path} ({cause(error)})") from error


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
        return self._answer(self.session.get(url, **kwargs))

    def _post(self, url: str, **kwargs: Any) -> dict:
        return self._answer(self.session.post(url, **kwargs))

    def _answer(self, response: requests.Response) -> dict:
        path = response.url.removeprefix(self.base_url)
        if response.status_code == 404 and path in DEVELOPMENT:
            raise ServerRefused(
                f"The server at {self.base_url} does not offer {path}: its development endpoints are off. "
                "Start it with `r1kit serve`, or with VLLM_SERVER_DEV_MODE=1 in its environment"
            )
        if response.status_code == 401:
            raise ServerRefused(f"The server at {self.base_url} wants another API key (401)")
        if response.status_code >= 500 and "EngineCore" in response.text:
            raise ServerGone(f"The server at {self.base_url} lost its engine while it did {path}")
        if response.status_code != 200:
            raise ServerRefused(
                f"The server answered {path} with {response.status_code}: {response.text[:500]}"
            )
        return response.json() if response.content else {}


DEVELOPMENT = ("/collective_rpc", "/server_info", "/reset_prefix_cache", "/update_weights", "/get_world_size")


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
    urls = server_state(folder).get("urls") or []
    if not urls:
        raise ServerGone(f"{folder / 'server.json'} names no server")
    key = folder / "api_key"
    secret = key.read_text(encoding="utf-8").strip() if key.exists() else ""
    return Replicas([ServerClient(url, bounds, secret, group_port + i) for i, url in enumerate(urls)])


def server_state(folder: Path) -> dict[str, Any]:
    """What the server's keeper says of it: state, message, urls, pids, model, restarts; {} if nothing."""
    return read_json(folder / "server.json", {})


def diagnosis(folder: Path, trouble: str, advice: str) -> str:
    """One paragraph: what happened, which process, the end of its log, what to try."""
    state = server_state(folder)
    pids = state.get("pids") or []
    alive = [pid for pid in pids if psutil.pid_exists(pid) and not zombie(pid)]
    process = ", ".join(f"{pid} {'runs' if pid in alive else 'is gone'}" for pid in pids) or "unknown"
    log = outcome.clean(outcome.read_tail(folder / "train.log"))
    lines = [line.strip()[:200] for line in log.splitlines() if line.strip()][-LOG_LINES:]
    tail = " | ".join(lines) or "empty"
    first = ERROR.search(log)  # an engine's death fills the log; what caused it stands first
    error = f" First error in its log: {first[1][:300]}." if first else ""
    keeper = state.get("state", "says nothing") + (f" ({state['message']})" if state.get("message") else "")
    return (
        f"{trouble.rstrip('.')}. Server process: {process}; its keeper: {keeper}, {state.get('restarts', 0)} "
        f"restarts.{error} End of its log ({folder / 'train.log'}): {tail}. {advice}"
    )


def zombie(pid: int) -> bool:
    """Whether the process has ended and waits for its parent."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def cause(error: BaseException) -> str:
    """The innermost reason, without urllib3's layers: "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
