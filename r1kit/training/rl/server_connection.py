"""Connect a trainer to its vLLM server, and check before a model is loaded that it runs, has the right model,
and gets weights.

The order: `connection_of(job)`, `check_servers` before TRL is imported, `preflight` with one small tensor. A
wrong server is refused within two seconds of the start, with exit code BAD_INPUT, because the settings name
it. TRL checks none of this, and a group that cannot be built hangs silently.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.runs.outcome import ExitCode
from r1kit.runs.weight_versions import NAME, model_fingerprint, sync_folder
from r1kit.serving.diagnosis import explain_trouble
from r1kit.serving.server import ask_restart, secret, server_state
from r1kit.serving.session import Bounds, ServerGone, ServerRefused, ServerTrouble, Session, content
from r1kit.settings.machine import ServerSettings, WeightSyncSettings
from r1kit.training.program import Job
from r1kit.training.watchdog import Stopped, Watchdog

POLL_SECONDS = 0.2  # between two reads of server.json


@dataclass
class ServerConnection:
    """A trainer's server, and how long to wait for it.

    Attributes:
        folder: the server's folder, with server.json, train.log and perhaps api_key.
        job: the training's folder.
        start_seconds: how long a start may take, also a restart.
        restart: the keeper restarts a dead or silent server.
        connected: the Transport, made by `connect`.
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
        """Return the Transport to the servers; make and probe it at the first call.

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
        """Request a restart, wait until the keeper has done it, and connect the Transport to the new server.

        The client requests it, because only the client notices a server that is stuck but answers /health.

        Args:
            reason: the failure, such as "has not answered".

        Raises:
            ServerTrouble: it is not back within `start_seconds`.
        """
        from r1kit.serving import client

        transport, start = self.connected, time.monotonic()
        with contextlib.suppress(OSError):  # disk full: the wait then ends without success
            ask_restart(self.folder, reason, transport.servers.pids)
        try:
            if (state := wait_until_started(self, transport.servers.pids)) != "ready":
                raise ServerTrouble(f"Its keeper reports {state}")
            servers = client.connect(self.folder, self.bounds)
        except ServerTrouble as trouble:
            seconds = time.monotonic() - start
            message = f"The server was lost and did not come back within {seconds:.0f} s"
            raise ServerTrouble(message) from trouble
        transport.reconnect(servers, device)

    def phase(self, name: str, bound: float) -> contextlib.AbstractContextManager:
        """Return the watchdog's phase, or a context that does nothing without a watchdog."""
        return self.watchdog.phase(name, bound) if self.watchdog else contextlib.nullcontext()

    def stopped(self, trouble: BaseException, started: bool = True) -> Stopped:
        """Return the Stopped that a ServerTrouble or OSError causes, with its diagnosis.

        The exit code is HUNG for a server that is gone or silent, FAILED for one that refused and for a full
        disk. A refusal before anything is loaded (`started` False) is BAD_INPUT: the settings name the wrong
        server.
        """
        code = ExitCode.HUNG if isinstance(trouble, ServerTrouble) else ExitCode.FAILED
        if isinstance(trouble, ServerRefused):
            code = ExitCode.FAILED if started else ExitCode.BAD_INPUT
        return Stopped(explain_trouble(self.folder, trouble), code)


def connection_of(job: Job) -> ServerConnection | None:
    """Return the connection that the job's settings describe; None if no server generates.

    Raises:
        Stopped: grpo.yaml needs a server and the job has none.
    """
    grpo = job.settings["grpo"]
    if not grpo.get("use_vllm") or grpo.get("vllm_mode", "colocate") != "server":
        return None
    if "server" not in job.inputs:
        raise Stopped(
            "grpo.yaml generates through a vLLM server, and none was started for this stage. Start it with "
            "`r1kit serve`, or from the notebook with run.serve(model) before run.launch.",
            ExitCode.BAD_INPUT,
        )
    machine = job.settings["machine"]
    server = ServerSettings.model_validate(machine["server"])
    sync = WeightSyncSettings.model_validate(machine.get("weight_sync") or {})
    return ServerConnection(
        folder=Path(job.inputs["server"]),
        job=job.folder,
        bounds=Bounds(server.generation_seconds, server.sync_seconds),
        start_seconds=server.start_seconds,
        restart=server.restart,
        transport=sync.transport,
        sync_folder=sync.folder,
        watchdog=job.watchdog,
    )


def check_servers(connection: ServerConnection, model: str) -> None:
    """Check on the main process, before TRL is imported, that the servers run, with this model and options.

    Raises:
        Stopped: with the diagnosis; exit code BAD_INPUT for a wrong server, HUNG for none.
    """
    with explained(connection):
        wait_until_started(connection)
        session = Session(connection.bounds, secret(connection.folder))
        urls = server_state(connection.folder).get("urls")
        if not urls:
            raise ServerGone(f"{connection.folder}/server.json names no server")
        for url in urls:
            check_server(session, url.rstrip("/"), model, connection)


def preflight(connection: ServerConnection, device: Any) -> None:
    """Check on the main process, before a model is loaded, that a small tensor reaches every worker.

    Raises:
        Stopped: with the diagnosis.
    """
    with explained(connection):
        connection.connect(device)


@contextlib.contextmanager
def explained(connection: ServerConnection) -> Iterator[None]:
    """Turn a ServerTrouble or OSError before the training into Stopped."""
    try:
        yield
    except (ServerTrouble, OSError) as trouble:
        raise connection.stopped(trouble, started=False) from trouble


def wait_until_started(connection: ServerConnection, lost: list[int] | None = None) -> str | None:
    """Wait while a server is starting, or while server.json still names the processes `lost`.

    Returns the state that server.json then has; None without one.

    Raises:
        ServerTrouble: nothing has changed after `start_seconds`.
    """
    deadline = time.monotonic() + connection.start_seconds
    while (state := server_state(connection.folder)).get("state") in ("starting", "restarting") or (
        state.get("state") == "ready" and state["pids"] == lost
    ):
        if time.monotonic() > deadline:
            raise ServerTrouble(f"The server is still {state['state']} after {connection.start_seconds:g} s")
        time.sleep(POLL_SECONDS)
    return state.get("state")


def check_server(session: Session, url: str, model: str, connection: ServerConnection) -> None:
    """Refuse a server with another model, or without what the importance ratio and the transport need.

    Raises:
        ServerRefused: the message says what it has and what is needed.
    """
    info = content(session.get(f"{url}/server_info", params={"config_format": "json"}))["vllm_config"]
    check_model(str(info["model_config"]["model"]), model, server_state(connection.folder), url)
    mode = info["model_config"].get("logprobs_mode")
    if mode != "processed_logprobs":
        raise ServerRefused(
            f"The server at {url} runs with --logprobs-mode {mode}; the importance ratio needs "
            "processed_logprobs (after temperature)"
        )
    if connection.transport == "nccl" and info.get("weight_transfer_config") is None:
        raise ServerRefused(
            f"The server at {url} has no weight transfer; it needs --weight-transfer-config, or set "
            "weight_sync.transport: file"
        )


def check_model(served: str, model: str, state: dict[str, Any], url: str) -> None:
    """Refuse a server with another model: another path, and another shape or vocabulary.

    A run that is resumed elsewhere serves from a copied path, so paths alone do not decide. The keeper's
    fingerprint, taken when it started the server, decides where this process does not reach the server's
    path, and where the folder has changed since.

    Raises:
        ServerRefused: with both names.
    """
    known, kept, wanted = state.get("model"), state.get("fingerprint", ""), model_fingerprint(model)
    if NAME.fullmatch(Path(served).name):  # vLLM may name what it last loaded
        served = known or served
    if served == known and kept and wanted and kept != wanted:
        raise ServerRefused(
            f"The server at {url} was started with {served} of fingerprint {kept}; this training starts from "
            f"{model} of {wanted}: another shape or vocabulary"
        )
    fingerprints = (model_fingerprint(served), kept if served == known else "")
    if served != model and not (wanted and wanted in fingerprints):
        raise ServerRefused(f"The server at {url} serves {served}; this training starts from {model}")
