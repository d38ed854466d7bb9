"""Rollouts from a vLLM server that may die: TRL's VLLMGeneration with versions, bounds and recovery.

TRL's rank 0 talks to the server while the other ranks wait in a broadcast. If rank 0 fails, they wait until
`ddp_timeout`, half an hour. Here rank 0 first tells all ranks how it went, so that they stop together (after
a checkpoint, see `served`) or recover together: wait for the restarted server, push the weights again, repeat
the generation. Nothing is generated twice by accident, because no request is repeated below this layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.generation.vllm_generation import VLLMGeneration

from r1kit.serving.session import ServerTrouble
from r1kit.training.server_link import Link
from r1kit.training.weight_sync import Transport


class ServerGeneration(VLLMGeneration):
    """Generation for TRL's GRPOTrainer through `link`; text prompts only.

    Attributes:
        measured: metrics of the newest sync.
        step: the optimizer step whose weights the trainer holds; whoever trains keeps it up to date.
    """

    def __init__(self, *args: Any, link: Link, **kwargs: Any):
        self.link = link
        self.measured: dict[str, float] = {}
        self.step = 0
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
        measured = None
        while measured is None:
            measured = self._together(self._send, "sync", self.link.bounds.sync, collective=True)
        self.measured = measured

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

        while (answer := self._together(ask, "generate", self.link.bounds.generation)) is None:
            self.sync_weights()
        completions, logprobs = answer
        first = self.accelerator.process_index * len(prompts)
        mine = slice(first, first + len(prompts))
        return rows[mine], completions[mine], logprobs[mine], None

    def _together(self, work: Callable[[], Any], phase: str, bound: float, collective: bool = False) -> Any:
        """Do `work` on the main process and return its result on all; None after a restart of the server.

        Args:
            phase: what the watchdog calls it, and `bound` how long it may take: the main process's work, and
                the others' waiting for it. A main process that finds the others stuck is in its step again.
            collective: the other ranks take part by walking through the parameters.

        Raises:
            Stopped: on every rank, when the server failed and a restart is not allowed or did not help.
        """
        result, stop, curable, reason = None, None, False, ""
        main = self.accelerator.is_main_process
        with self.link.phase(phase, bound):
            if main:
                try:
                    result = work()
                except (ServerTrouble, OSError) as trouble:
                    stop = self.link.stopped(trouble)
                    if curable := self.link.restart and getattr(trouble, "curable", False):
                        reason = trouble.reason
                        print(f"{trouble}; waiting for the server to be restarted", flush=True)
            else:
                if collective:
                    for _ in self._iter_named_params():
                        pass
                result, stop, curable = broadcast_object_list([None] * 3, from_process=0)
        if main:
            broadcast_object_list([result, stop, curable], from_process=0)
        if stop is None:
            return result
        if not curable:
            raise stop
        self._together(lambda: self._reconnect(reason), "restart", self.link.start_seconds)
        return None

    def _reconnect(self, reason: str) -> None:
        """Main process: wait for the restarted server."""
        self.link.reconnect(reason, self.accelerator.device)
        self.vllm_client = self.transport.servers.clients[0]
        print("the server is back; pushing the weights again", flush=True)
