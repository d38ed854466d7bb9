"""What a trainer knows of its vLLM server, and the questions before a model is loaded: is it there, is it the
right one, do weights reach it?

A wrong server is refused within a second or two of the start, with exit code 2: the settings name it. TRL
asks nothing, and a group that cannot be built hangs without a word (seed: "GRPO + vLLM hanging").
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs.fingerprint import model_fingerprint
from r1kit.runs.server_files import server_state
from r1kit.runs.weight_versions import NAME, sync_folder
from r1kit.training.job import Job
from r1kit.training.server_diagnosis import BAD_SETTINGS, exit_code, explain
from r1kit.training.server_session import (
    BoundedSession,
    Bounds,
    ServerLost,
    ServerRefused,
    ServerTrouble,
    addresses,
    content,
)
from r1kit.training.watchdog import Stopped, Watchdog

PAUSE = 0.2  # seconds between two looks at server.json


@dataclass
class Link:
    """Where the server is, and how patient to be."""

    folder: Path
    """The serve job's folder, with server.json, train.log and perhaps api_key."""
    job: Path
    bounds: Bounds = field(default_factory=Bounds)
    start_seconds: float = 600.0
    restart: bool = False
    transport: str = "file"
    sync_folder: str | None = None
    watchdog: Watchdog | None = None
    connected: Any = None
    """The Transport, once there is one."""

    def connect(self, device: Any) -> Any:
        """The Transport to the servers, made and probed once; see `preflight`."""
        from r1kit.training import server_client
        from r1kit.training.weight_sync import FileTransport, NcclTransport

        if self.connected is None:
            servers = server_client.connect(self.folder, self.bounds)
            for client in servers.clients:
                client.ask_model()
            if self.transport == "file":
                folder = sync_folder(self.sync_folder, self.job / "weights")
                self.connected = FileTransport(servers, folder)
            else:
                self.connected = NcclTransport(servers)
            with self.phase("preflight", self.bounds.sync):
                self.connected.probe(device)
        return self.connected

    def phase(self, name: str, bound: float) -> contextlib.AbstractContextManager:
        """The watchdog's phase, if there is a watchdog."""
        return self.watchdog.phase(name, bound) if self.watchdog else contextlib.nullcontext()


def link_of(job: Job) -> Link | None:
    """The link that the job's settings describe; None if no server generates.

    Raises:
        Stopped: grpo.yaml asks for a server and the job knows none.
    """
    grpo, machine = job.settings["grpo"], job.settings.get("machine", {})
    if not grpo.get("use_vllm") or grpo.get("vllm_mode", "colocate") != "server":
        return None
    if "server" not in job.inputs:
        raise Stopped(
            "grpo.yaml generates through a vLLM server, and none was started for this stage. Start it with "
            "`r1kit serve`, or from the notebook with run.serve(model) before run.launch.",
            BAD_SETTINGS,
        )
    server, sync = machine.get("server") or {}, machine.get("weight_sync") or {}
    plain = Link(folder=Path(job.inputs["server"]), job=job.folder)
    return Link(
        folder=plain.folder,
        job=job.folder,
        bounds=Bounds(
            generation=server.get("generation_seconds", plain.bounds.generation),
            sync=server.get("sync_seconds", plain.bounds.sync),
        ),
        start_seconds=server.get("start_seconds", plain.start_seconds),
        restart=server.get("restart", plain.restart),
        transport=sync.get("transport", plain.transport),
        sync_folder=sync.get("folder"),
        watchdog=job.watchdog,
    )


def check_servers(link: Link, model: str) -> None:
    """Before TRL is imported: is the server there, has it our model and what the trainer needs? Main process.

    Raises:
        Stopped: with the diagnosis; exit code 2 for a wrong server, 4 for none.
    """
    with explained(link):
        wait_until_started(link)
        urls, key = addresses(link.folder)
        session = BoundedSession(link.bounds, key)
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
        raise Stopped(explain(link.folder, trouble), exit_code(trouble, started=False)) from trouble


def wait_until_started(link: Link) -> None:
    """Wait, for at most `start_seconds`, while the keeper says that it is starting a server.

    Raises:
        ServerLost: it is still starting then.
    """
    deadline = time.monotonic() + link.start_seconds
    while (state := server_state(link.folder).get("state")) in ("starting", "restarting"):
        if time.monotonic() > deadline:
            raise ServerLost(f"The server is still {state} after {link.start_seconds:g} s")
        time.sleep(PAUSE)


def check_server(session: BoundedSession, url: str, model: str, link: Link) -> None:
    """Refuse a server with another model, or without what the importance ratio and the transport need.

    Raises:
        ServerRefused: with what was found and what is needed.
    """
    info = content(session.get(f"{url}/server_info", params={"config_format": "json"}), url)["vllm_config"]
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
