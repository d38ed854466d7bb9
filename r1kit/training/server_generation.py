"""Rollouts from a vLLM server that may die: TRL's VLLMGeneration with versions, bounds and recovery.

TRL's rank 0 talks to the server while the other ranks wait in a broadcast. If rank 0 fails, they wait until
`ddp_timeout`, half an hour. Here rank 0 first tells all ranks how it went, so that they stop together (after
a checkpoint, see `served`) or recover together: wait for the restarted server, push the weights again, repeat
the generation. Nothing is generated twice by accident, because no request is repeated below this level.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.generation.vllm_generation import VLLMGeneration

from r1kit.runs.fingerprint import model_fingerprint
from r1kit.runs.weight_versions import sync_folder
from r1kit.training import server_client
from r1kit.training.server_client import Bounds, ServerTrouble
from r1kit.training.watchdog import HUNG, Stopped, Watchdog
from r1kit.training.weight_sync import FileTransport, NcclTransport, Transport

RECOVERIES = 5  # in a row without a step between them
ADVICE = {
    "gone": "Start the stage again: it goes on from the checkpoint. With `server: {restart: true}` in "
    "machine.yaml a server that dies is started again and the same run continues.",
    "silent": "The server is alive but stuck or too slow: look at its log, lower max_completion_length, or "
    "raise server.generation_seconds (and sync_seconds) in machine.yaml; then start the stage again.",
    "refused": "Start the server with `r1kit serve`, which sets all that the trainer needs.",
    "room": "Free the medium, or set weight_sync.folder in machine.yaml to another one; then start the stage "
    "again.",
}


@dataclass
class Link:
    """What the trainer knows of the server: where it is, and how patient to be."""

    folder: Path
    """The serve job's folder, with server.json, train.log and perhaps api_key."""
    job: Path
    bounds: Bounds = field(default_factory=Bounds)
    start_seconds: float = 600.0
    restart: bool = False
    transport: str = "file"
    sync_folder: str | None = None
    watchdog: Watchdog | None = None
    connected: Transport | None = None

    def connect(self, device: Any) -> Transport:
        """The transport to the servers, made and probed once; see `preflight`."""
        if self.connected is None:
            servers = server_client.connect(self.folder, self.bounds)
            for client in servers.clients:
                client.ask_model()
            if self.transport == "file":
                folder = sync_folder(self.sync_folder, self.job / "weights")
                self.connected = FileTransport(servers, folder)
            else:
                self.connected = NcclTransport(servers)
            self.connected.probe(device)
        return self.connected

    def explain(self, trouble: BaseException) -> str:
        """The paragraph for a trouble."""
        kinds = {server_client.ServerSilent: "silent", server_client.ServerRefused: "refused"}
        kind = kinds.get(type(trouble), "room" if isinstance(trouble, OSError) else "gone")
        what = getattr(trouble, "strerror", None) or str(trouble)
        return server_client.diagnosis(self.folder, what, ADVICE[kind])


def preflight(link: Link, model: str, device: Any) -> None:
    """Before any model is loaded: is the server there, has it our model, do weights reach it? Main process.

    Raises:
        Stopped: with the diagnosis.
    """
    try:
        transport = link.connect(device)
        for client in transport.servers.clients:
            check_server(client, model, link)
    except (ServerTrouble, OSError) as trouble:
        raise Stopped(link.explain(trouble), exit_code(trouble)) from trouble


def exit_code(trouble: BaseException) -> int:
    """4 for a server that is gone or silent; 1 for one that refused, and for a full disk."""
    refused = isinstance(trouble, server_client.ServerRefused) or not isinstance(trouble, ServerTrouble)
    return 1 if refused else HUNG


def check_server(client: server_client.ServerClient, model: str, link: Link) -> None:
    """Refuse a server with another model, or without what the importance ratio needs.

    Raises:
        ServerRefused: with what was found and what is needed.
    """
    info = client.get_server_info()
    served = str(info["model_config"]["model"])
    if Path(served).name.startswith("v0") and (Path(served) / "version.json").exists():
        served = server_client.server_state(link.folder).get(
            "model", served
        )  # vLLM names what it last loaded
    if not same_model(served, model):
        raise server_client.ServerRefused(
            f"The server at {client.base_url} serves {served}; this training starts from {model}"
        )
    mode = info["model_config"].get("logprobs_mode")
    if mode != "processed_logprobs":
        raise server_client.ServerRefused(
            f"The server at {client.base_url} runs with --logprobs-mode {mode}; the importance ratio needs "
            "processed_logprobs (after temperature)"
        )
    if link.transport == "nccl" and info.get("weight_transfer_config") is None:
        raise server_client.ServerRefused(
            f"The server at {client.base_url} has no weight transfer; it needs --weight-transfer-config, or "
            "set weight_sync.transport: file"
        )


def same_model(served: str, model: str) -> bool:
    """Whether two names are one model: equal, or folders of the same shape and the same tokens.

    A run that goes on elsewhere serves from a copied path, so paths alone do not decide.
    """
    found = model_fingerprint(served)
    return served == model or (found != "" and found == model_fingerprint(model))


class ServerGeneration(VLLMGeneration):
    """Generation for TRL's GRPOTrainer through `link`; text prompts only.

    Attributes:
        measured: metrics of the newest sync.
        step: the optimizer step whose weights the trainer holds; whoever trains keeps it up to date.
    """

    def __init__(self, *args: Any, link: Link, **kwargs: Any):
        self.link = link
        self.measured: dict[str, float] = {}
        self.recoveries = self.step = 0
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        """Connect; TRL's would refuse where vLLM is not installed on the trainer's side."""
        self.transport: Transport | None = None
        if self.accelerator.is_main_process:
            self.transport = self.link.connect(self.accelerator.device)
            self.vllm_client = self.transport.servers.clients[0]  # TRL asks it for the logprobs mode
        self.accelerator.wait_for_everyone()

    def sync_weights(self) -> None:
        """Bring the trainer's weights, those after `step`, to every server; all ranks together.

        Raises:
            Stopped: on every rank, when it cannot be done.
        """
        if self._weight_metadata is None:
            self._weight_metadata = [
                (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                for name, tensor in self._iter_named_params()
            ]
        self.accelerator.wait_for_everyone()  # a rank that still saves must not use up the others' bound
        while True:
            with self._phase("sync", self.link.bounds.sync):
                measured = self._together(self._send)
            if measured is not None:
                self.measured = measured
                return
            self._recover()

    def _send(self) -> dict[str, float]:
        """Main process: one attempt. Gathering is collective, so the iterator is always emptied."""
        tensors = self._iter_named_params()
        try:
            return self.transport.sync(self.step, self._weight_metadata, tensors)
        finally:
            for _ in tensors:
                pass

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[list, list, list, None]:
        """As TRL's, for the prompts of all ranks together.

        Returns:
            (prompt ids, completion ids, log-probabilities [tokens, 1], None) of this rank's rows.

        Raises:
            Stopped: on every rank, when the server does not come back.
        """
        rows = gather_object(prompts)
        sampling = {
            "n": num_generations,
            "repetition_penalty": self.repetition_penalty,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p or 0.0,
            "max_tokens": self.max_completion_length,
            "logprobs": self.logprobs,
            "structured_outputs_regex": self.structured_outputs_regex,
            "generation_kwargs": self.generation_kwargs,
        }

        def ask() -> tuple[list, list]:
            self.transport.check()  # no rollout from weights that are not the trainer's
            answer = self.transport.servers.generate(rows[::num_generations], **sampling)
            self.transport.check()
            return answer["completion_ids"], answer["logprobs"]

        while True:
            with self._phase("generate", self.link.bounds.generation):
                answer = self._together(ask, collective=False)
            if answer is not None:
                break
            self._recover()
            self.sync_weights()
        completions, logprobs = answer
        self.recoveries = 0
        first = self.accelerator.process_index * len(prompts)
        mine = slice(first, first + len(prompts))
        return rows[mine], completions[mine], logprobs[mine], None

    def _together(self, work: Callable[[], Any], collective: bool = True) -> Any:
        """Do `work` on the main process and hand its result to all; None when a restart may cure its failure.

        Args:
            collective: the other ranks take part by walking through the parameters.

        Raises:
            Stopped: on every rank, when it cannot be cured.
        """
        outcome: list[Any] = [None, None, False, 0]  # result, explanation, curable, exit code
        if self.accelerator.is_main_process:
            try:
                outcome[0] = work()
            except (ServerTrouble, OSError) as trouble:
                curable = getattr(trouble, "curable", False) and self.link.restart
                if curable:
                    print(f"{trouble}; waiting for the server to be restarted", flush=True)
                outcome[1:] = [self.link.explain(trouble), curable, exit_code(trouble)]
        elif collective:
            for _ in self._iter_named_params():
                pass
        broadcast_object_list(outcome, from_process=0)
        result, explanation, curable, code = outcome
        if explanation is None:
            return result
        self.recoveries += 1
        if not curable or self.recoveries > RECOVERIES:
            raise Stopped(explanation, code)
        return None

    def _recover(self) -> None:
        """Wait until the keeper has a healthy server again, within `start_seconds`; then connect to it."""

        def wait() -> bool:
            deadline = time.monotonic() + self.link.start_seconds
            while time.monotonic() < deadline:
                state = server_client.server_state(self.link.folder).get("state")
                if state in ("failed", "stopped"):
                    break
                if state == "ready" and self._reconnect():
                    print("the server is back; pushing the weights again", flush=True)
                    return True
                time.sleep(0.2)
            raise server_client.ServerSilent(
                f"The server did not come back within {self.link.start_seconds:g} s"
            )

        with self._phase("restart", self.link.start_seconds):
            self._together(wait, collective=False)

    def _reconnect(self) -> bool:
        """Whether all servers named by server.json answer; the clients then point to them."""
        servers = server_client.connect(self.link.folder, self.link.bounds)
        if not all(client.healthy() for client in servers.clients):
            return False
        for client in servers.clients:
            client.ask_model()
        if self.link.transport == "nccl":  # the old group died with its peer
            self.transport.close()
        self.transport.servers = servers
        if self.link.transport == "nccl":
            self.transport.probe(self.accelerator.device)
        self.vllm_client = servers.clients[0]
        return True

    def _phase(self, name: str, bound: float) -> Any:
        watchdog = self.link.watchdog
        return watchdog.phase(name, bound) if watchdog else contextlib.nullcontext()
