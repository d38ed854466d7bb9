"""Where a trainer's vLLM server is, and the questions before a model is loaded: is it there, is it the right
one, do weights reach it?

A wrong server is refused within a second or two of the start, with exit code 2: the settings name it. TRL
asks nothing, and a group that cannot be built hangs silently (seed: "GRPO + vLLM hanging").
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs.weight_versions import NAME, model_fingerprint, sync_folder
from r1kit.serving.diagnosis import explain_trouble
from r1kit.serving.server import ask_restart, secret, server_state
from r1kit.serving.session import Bounds, ServerGone, ServerRefused, ServerTrouble, Session, content
from r1kit.settings.machine import ServerSettings, WeightSyncSettings
from r1kit.training.program import Job
from r1kit.training.watchdog import HUNG, Stopped, Watchdog

FAILED, BAD_SETTINGS = 1, 2  # exit codes
LOOK_SECONDS = 0.2  # between two looks at server.json


@dataclass
class Link:
    """Where the server is, and how patient to be.

    Attributes:
        folder: the serve job's folder, with server.json, train.log and perhaps api_key.
        job: the training's folder.
        start_seconds: how long a start may take, also one after a failure.
        restart: whether the keeper starts a dead or silent server again.
        connected: the Transport, once there is one.
    """

    folder: Path
    job: Path
    bounds: Bounds = field(default_factory=Bounds)
    start_seconds: float = 600.0
    restart: bool = False
    transport: str = "file"
    sync_folder: str | None = None
    watchdog: Watchdog | None = None
    connected: Any = None

    def connect(self, device: Any) -> Any:
        """Return the Transport to the servers, made and probed at the first call.

        Raises:
            ServerTrouble, OSError: a server does not answer, or a small tensor did not reach a worker.
        """
        from r1kit.serving import client
        from r1kit.serving.weight_sync import FileTransport, NcclTransport

        if self.connected is None:
            servers = client.connect(self.folder, self.bounds)
            if self.transport == "file":
                folder = sync_folder(self.sync_folder, self.job / "weights")
                self.connected = FileTransport(servers, folder)
            else:
                self.connected = NcclTransport(servers)
            with self.phase("preflight", self.bounds.sync):
                self.connected.probe(device)
        return self.connected

    def reconnect(self, reason: str, device: Any) -> None:
        """Wait until the keeper has started the server again, and point the Transport to it.

        Only the client knows of a server that is stuck and still answers /health, so it asks for the restart.

        Args:
            reason: what the server did.

        Raises:
            ServerTrouble: it is not back within `start_seconds`.
        """
        from r1kit.serving import client

        transport, start = self.connected, time.monotonic()
        with contextlib.suppress(OSError):  # no room for a file: then the wait ends in vain
            ask_restart(self.folder, reason, transport.servers.pids)
        try:
            if (state := wait_until_started(self, transport.servers.pids)) != "ready":
                raise ServerTrouble(f"Its keeper says {state}")
            servers = client.connect(self.folder, self.bounds)
        except ServerTrouble as trouble:
            seconds = time.monotonic() - start
            message = f"The server was lost and did not come back within {seconds:.0f} s"
            raise ServerTrouble(message) from trouble
        transport.reconnect(servers, device)

    def phase(self, name: str, bound: float) -> contextlib.AbstractContextManager:
        """Return the watchdog's phase, if there is a watchdog."""
        return self.watchdog.phase(name, bound) if self.watchdog else contextlib.nullcontext()

    def stopped(self, trouble: BaseException, started: bool = True) -> Stopped:
        """Return the end of the training that a ServerTrouble or OSError causes, with its diagnosis.

        The exit code is 4 for a server that is gone or silent, 1 for one that refused and for a full disk. A
        refusal before anything is loaded (`started` False) is 2: the settings name the wrong server.
        """
        code = HUNG if isinstance(trouble, ServerTrouble) else FAILED
        if isinstance(trouble, ServerRefused):
            code = FAILED if started else BAD_SETTINGS
        return Stopped(explain_trouble(self.folder, trouble), code)


def link_of(job: Job) -> Link | None:
    """Return the link that the job's settings describe; None if no server generates.

    Raises:
        Stopped: grpo.yaml asks for a server and the job knows none.
    """
    grpo = job.settings["grpo"]
    if not grpo.get("use_vllm") or grpo.get("vllm_mode", "colocate") != "server":
        return None
    if "server" not in job.inputs:
        raise Stopped(
            "grpo.yaml generates through a vLLM server, and none was started for this stage. Start it with "
            "`r1kit serve`, or from the notebook with run.serve(model) before run.launch.",
            BAD_SETTINGS,
        )
    machine = job.settings["machine"]
    server = ServerSettings.model_validate(machine["server"])
    sync = WeightSyncSettings.model_validate(machine.get("weight_sync") or {})
    return Link(
        folder=Path(job.inputs["server"]),
        job=job.folder,
        bounds=Bounds(server.generation_seconds, server.sync_seconds),
        start_seconds=server.start_seconds,
        restart=server.restart,
        transport=sync.transport,
        sync_folder=sync.folder,
        watchdog=job.watchdog,
    )


def check_servers(link: Link, model: str) -> None:
    """Before TRL is imported: is the server there, has it our model and what the trainer needs? Main process.

    Raises:
        Stopped: with the diagnosis; exit code 2 for a wrong server, 4 for none.
    """
    with explained(link):
        wait_until_started(link)
        session = Session(link.bounds, secret(link.folder))
        urls = server_state(link.folder).get("urls")
        if not urls:
            raise ServerGone(f"{link.folder}/server.json names no server")
        for url in urls:
            check_server(session, url.rstrip("/"), model, link)


def preflight(link: Link, device: Any) -> None:
    """Before a model is loaded: does one small tensor reach every worker? Main process.

    Raises:
        Stopped: with the diagnosis.
    """
    with explained(link):
        link.connect(device)


@contextlib.contextmanager
def explained(link: Link) -> Iterator[None]:
    """Turn the troubles of a start into Stopped."""
    try:
        yield
    except (ServerTrouble, OSError) as trouble:
        raise link.stopped(trouble, started=False) from trouble


def wait_until_started(link: Link, lost: list[int] | None = None) -> str | None:
    """Wait while the keeper says that it is starting a server, or that the processes `lost` are the server.

    Returns the state that server.json then has; None without one.

    Raises:
        ServerTrouble: it still says so after `start_seconds`.
    """
    deadline = time.monotonic() + link.start_seconds
    while (state := server_state(link.folder)).get("state") in ("starting", "restarting") or (
        state.get("state") == "ready" and state["pids"] == lost
    ):
        if time.monotonic() > deadline:
            raise ServerTrouble(f"The server is still {state['state']} after {link.start_seconds:g} s")
        time.sleep(LOOK_SECONDS)
    return state.get("state")


def check_server(session: Session, url: str, model: str, link: Link) -> None:
    """Refuse a server with another model, or without what the importance ratio and the transport need.

    Raises:
        ServerRefused: with what was found and what is needed.
    """
    info = content(session.get(f"{url}/server_info", params={"config_format": "json"}))["vllm_config"]
    check_model(str(info["model_config"]["model"]), model, server_state(link.folder), url)
    mode = info["model_config"].get("logprobs_mode")
    if mode != "processed_logprobs":
        raise ServerRefused(
            f"The server at {url} runs with --logprobs-mode {mode}; the importance ratio needs "
            "processed_logprobs (after temperature)"
        )
    if link.transport == "nccl" and info.get("weight_transfer_config") is None:
        raise ServerRefused(
            f"The server at {url} has no weight transfer; it needs --weight-transfer-config, or set "
            "weight_sync.transport: file"
        )


def check_model(served: str, model: str, state: dict[str, Any], url: str) -> None:
    """Refuse a server whose model is not `model`: another name, and not folders of one shape and vocabulary.

    A run that goes on elsewhere serves from a copied path, so paths alone do not decide. The keeper's
    fingerprint, taken when it started the server, also decides where this process cannot see the server's
    path, and where the folder has changed since.

    Raises:
        ServerRefused: with both names.
    """
    known, kept, ours = state.get("model"), state.get("fingerprint", ""), model_fingerprint(model)
    if NAME.fullmatch(Path(served).name):  # vLLM may name what it last loaded
        served = known or served
    if served == known and kept and ours and kept != ours:
        raise ServerRefused(
            f"The server at {url} was started with {served} of fingerprint {kept}; this training starts from "
            f"{model} of {ours}: another shape or vocabulary"
        )
    same = served == model or (ours and ours in (model_fingerprint(served), kept if served == known else ""))
    if not same:
        raise ServerRefused(f"The server at {url} serves {served}; this training starts from {model}")
