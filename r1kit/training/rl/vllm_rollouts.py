"""GRPO rollouts from a vLLM server that may die: versions, bounded requests, recovery, and a drift check.

`ServerGeneration` extends TRL's VLLMGeneration. TRL's rank 0 talks to the server while the other ranks wait
in a broadcast; if rank 0 fails, they wait until `ddp_timeout`, half an hour. Here rank 0 first broadcasts the
result or the failure, so that all ranks stop together (after a checkpoint) or recover together: wait for the
restarted server, send the weights again, repeat the generation. No request is repeated below this layer.

`VLLMRollouts` is mixed into the trainer: it logs the metrics of a sync, saves a checkpoint before it stops,
and bounds the drift. A frozen server raises no error: rewards move a little, little is learnt. The mean
importance ratio does not show it: E[p_trainer / p_server] over the server's samples is 1 for any two policies
(2026-11-24: 0.998 with half of a model's weights stale). The mean difference of the log-probabilities of the
sampled tokens does: it was 0.012 then, and 1e-6 once all weights arrived. Both are bounded; the ratio because
truncation and masking change it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.generation.vllm_generation import VLLMGeneration

from r1kit.runs.outcome import ExitCode
from r1kit.serving.session import ServerTrouble
from r1kit.serving.weight_sync import Transport
from r1kit.training import checkpoints
from r1kit.training.rl.server_connection import ServerConnection
from r1kit.training.watchdog import Stopped


class ServerGeneration(VLLMGeneration):
    """Generation for TRL's GRPOTrainer through `connection`; text prompts only.

    Attributes:
        measured: metrics of the newest sync.
        step: the optimizer step of the trainer's weights; the trainer updates it.
    """

    def __init__(self, *args: Any, connection: ServerConnection, **kwargs: Any):
        self.connection = connection
        self.measured: dict[str, float] = {}
        self.step = 0
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        """Connect; TRL's own method needs vLLM in the trainer's environment."""
        self.transport: Transport | None = None
        if self.accelerator.is_main_process:
            self.transport = self.connection.connect(self.accelerator.device)
            self.vllm_client = self.transport.servers.clients[0]  # TRL asks it for the logprobs mode
        self.accelerator.wait_for_everyone()

    def sync_weights(self) -> None:
        """Bring the trainer's weights after `step` to every server; all ranks call it together.

        Raises:
            Stopped: on every rank, if it fails.
        """
        if self._weight_metadata is None:
            self._weight_metadata = [
                (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                for name, tensor in self._iter_named_params()
            ]
        self.accelerator.wait_for_everyone()  # a rank that is still saving must not use up the bound
        measured = None
        while measured is None:
            measured = self._together(self._send, "sync", self.connection.bounds.sync, collective=True)
        self.measured = measured

    def _send(self) -> dict[str, float]:
        """Make one attempt on the main process. Gathering is collective: the iterator is always emptied."""
        tensors = self._iter_named_params()
        try:
            return self.transport.sync(self.step, self._weight_metadata, tensors)
        finally:
            for _ in tensors:
                pass

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[list, list, list, None]:
        """Generate as TRL does, for the prompts of all ranks together.

        Returns:
            (prompt ids, completion ids, log-probabilities [tokens, 1], None) of this rank's rows.

        Raises:
            Stopped: on every rank, if the server does not come back.
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

        def request() -> tuple[list, list]:
            self.transport.check()  # before and after: all tokens come from the trainer's weights
            answer = self.transport.servers.generate(rows[::num_generations], **sampling)
            self.transport.check()
            return answer["completion_ids"], answer["logprobs"]

        while (answer := self._together(request, "generate", self.connection.bounds.generation)) is None:
            self.sync_weights()
        completions, logprobs = answer
        first = self.accelerator.process_index * len(prompts)
        mine = slice(first, first + len(prompts))
        return rows[mine], completions[mine], logprobs[mine], None

    def _together(self, work: Callable[[], Any], phase: str, bound: float, collective: bool = False) -> Any:
        """Do `work` on the main process and return its result on all; None after a restart of the server.

        Args:
            phase: the watchdog's name for it; `bound`: the seconds it may take, on the main process the work,
                on the others the wait for it. The main process leaves the phase before it broadcasts.
            collective: the other ranks take part by iterating over the parameters.

        Raises:
            Stopped: on every rank, if the server failed and a restart is not allowed or did not help.
        """
        result, stop, curable, reason = None, None, False, ""
        main = self.accelerator.is_main_process
        with self.connection.phase(phase, bound):
            if main:
                try:
                    result = work()
                except (ServerTrouble, OSError) as trouble:
                    stop = self.connection.stopped(trouble)
                    if curable := self.connection.restart and getattr(trouble, "curable", False):
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
        self._together(lambda: self._reconnect(reason), "restart", self.connection.start_seconds)
        return None

    def _reconnect(self, reason: str) -> None:
        """Wait for the restarted server on the main process."""
        self.connection.reconnect(reason, self.accelerator.device)
        self.vllm_client = self.transport.servers.clients[0]
        print("the server is back; pushing the weights again", flush=True)


RATIO = "sampling/importance_sampling_ratio/mean"
DIFFERENCE = "sampling/sampling_logp_difference/mean"


class VLLMRollouts:
    """Mixin for a GRPOTrainer made inside `generating_through`; without a server it changes nothing."""

    drift: float | None = None
    """Bound of |mean importance ratio - 1| and of the mean |difference of log-probabilities|; None: off."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as TRL does, and log the metrics of the sync, if there was one."""
        served = self.use_vllm and isinstance(self.vllm_generation, ServerGeneration)
        if served:
            self.vllm_generation.step = self.state.global_step
            self.vllm_generation.measured = {}
        result = super()._generate_single_turn(*args, **kwargs)
        if served:
            mode = "train" if self.model.training else "eval"
            for name, value in self.vllm_generation.measured.items():
                self._metrics[mode][name].append(value)
        return result

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Generate and score as TRL does; save the trained weights before the training stops here.

        Raises:
            Stopped: the server is lost, or it samples from another policy (`check_drift`).
        """
        try:
            scored = super()._generate_and_score_completions(inputs)
            measured = self._metrics["train"]
            if self.model.training and self.drift is not None and measured.get(RATIO):
                check_drift(measured[RATIO][-1], measured[DIFFERENCE][-1], self.drift, self.state.global_step)
        except Stopped:
            self._save_before_stopping()
            raise
        return scored

    def _save_before_stopping(self) -> None:
        """Save the last step's weights, unless they are saved already or a step is incomplete."""
        step = self.state.global_step
        there = checkpoints.is_complete(f"{self.args.output_dir}/checkpoint-{step}")
        between_steps = self.model.training and self._step % self.args.gradient_accumulation_steps == 0
        if step == 0 or there or not between_steps:
            return
        self._save_checkpoint(self.model, trial=None)
        self.callback_handler.on_save(self.args, self.state, self.control)
        if self.accelerator.is_main_process:
            print(f"checkpoint of step {step} written before stopping", flush=True)


def check_drift(ratio: float, difference: float, bound: float, step: int) -> None:
    """Stop the training if trainer and server disagree about the sampled tokens by more than `bound`.

    Args:
        ratio: mean of exp(log p_trainer - log p_server), after TRL's truncation or masking.
        difference: mean of |log p_trainer - log p_server| in nats per token.

    Raises:
        Stopped: they differ by more.
    """
    if abs(ratio - 1.0) <= bound and difference <= bound:
        return
    raise Stopped(
        f"The rollouts after step {step} were not sampled from the policy that is trained: the mean "
        f"importance ratio is {ratio:.4f} and log-probabilities differ by {difference:.4f} on average; "
        f"allowed are 1 within {bound:g} and {bound:g} (weight_sync.drift in machine.yaml). Weights that did "
        "not arrive, another dtype on one side, top_p, top_k, min_p or repetition_penalty that only the "
        "sampler applies, or sequence-level masking of long completions do that. The step was not trained "
        "on; start the stage again when the cause is gone.",
        returncode=ExitCode.FAILED,
    )


@contextlib.contextmanager
def generating_through(connection: ServerConnection | None) -> Iterator[None]:
    """Let TRL's GRPOTrainer generate through `connection` inside the block, and close it; None keeps TRL's.

    TRL 1.16 looks the class up in its module, so it is replaced there.
    """
    from trl.trainer import grpo_trainer

    plain = grpo_trainer.VLLMGeneration
    if connection is not None:
        grpo_trainer.VLLMGeneration = functools.partial(ServerGeneration, connection=connection)
    try:
        yield
    finally:
        grpo_trainer.VLLMGeneration = plain
        if connection is not None and connection.connected is not None:
            connection.connected.close()
