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
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.generation.vllm_generation import VLLMGeneration

from r1kit.runs.server_files import ask_restart, restart_asked, server_state
from r1kit.training import server_client
from r1kit.training.server_diagnosis import exit_code, explain
from r1kit.training.server_link import PAUSE, Link
from r1kit.training.server_session import ServerLost, ServerSilent, ServerTrouble
from r1kit.training.watchdog import Stopped
from r1kit.training.weight_sync import Transport

RECOVERIES = 5  # in a row without a step between them


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
            measured = self._together(self._send, "sync", self.link.bounds.sync, collective=True)
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
            answer = self._together(ask, "generate", self.link.bounds.generation)
            if answer is not None:
                break
            self._recover()
            self.sync_weights()
        completions, logprobs = answer
        self.recoveries = 0
        first = self.accelerator.process_index * len(prompts)
        mine = slice(first, first + len(prompts))
        return rows[mine], completions[mine], logprobs[mine], None

    def _together(self, work: Callable[[], Any], phase: str, bound: float, collective: bool = False) -> Any:
        """Do `work` on the main process and hand its result to all; None when a restart may cure its failure.

        Args:
            phase: what the watchdog calls it, and `bound` how long it may take: the main process's work, and
                the others' waiting for it. A main process that finds the others stuck is in its step again.
            collective: the other ranks take part by walking through the parameters.

        Raises:
            Stopped: on every rank, when it cannot be cured.
        """
        outcome: list[Any] = [None, None, False, 0]  # result, explanation, curable, exit code
        with self.link.phase(phase, bound):
            if self.accelerator.is_main_process:
                try:
                    outcome[0] = work()
                except (ServerTrouble, OSError) as trouble:
                    told = explain(self.link.folder, trouble)
                    outcome[1:] = [told, self._curable(trouble), exit_code(trouble)]
            else:
                if collective:
                    for _ in self._iter_named_params():
                        pass
                broadcast_object_list(outcome, from_process=0)
        if self.accelerator.is_main_process:
            broadcast_object_list(outcome, from_process=0)
        result, explanation, curable, code = outcome
        if explanation is None:
            return result
        self.recoveries += 1
        if not curable or self.recoveries > RECOVERIES:
            raise Stopped(explanation, code)
        return None

    def _curable(self, trouble: BaseException) -> bool:
        """Main process: whether a restart may help; the keeper is asked for one where it cannot see the need.

        A server that is alive and stuck still answers /health, so only who waits for it knows.
        """
        if not (getattr(trouble, "curable", False) and self.link.restart):
            return False
        print(f"{trouble}; waiting for the server to be restarted", flush=True)
        if isinstance(trouble, ServerSilent):
            with contextlib.suppress(OSError):  # no room for a file: the wait below then ends in vain
                ask_restart(self.link.folder, trouble.reason, [trouble.url])
        return True

    def _recover(self) -> None:
        """Wait until the keeper has a healthy server again, within `start_seconds`; then connect to it."""

        def wait() -> bool:
            start = time.monotonic()
            while (seconds := time.monotonic() - start) < self.link.start_seconds:
                state = server_state(self.link.folder).get("state")
                if state in ("failed", "stopped"):
                    break
                if state == "ready" and not restart_asked(self.link.folder) and self._reconnect():
                    print("the server is back; pushing the weights again", flush=True)
                    return True
                time.sleep(PAUSE)
            raise ServerLost(f"The server was lost and did not come back within {seconds:.0f} s")

        self._together(wait, "restart", self.link.start_seconds)

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
