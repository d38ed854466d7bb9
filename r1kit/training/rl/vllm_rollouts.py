"""Rollouts from a vLLM server that may die: TRL's VLLMGeneration with versions, bounds and recovery.

TRL's rank 0 talks to the server while the other ranks wait in a broadcast. If rank 0 fails, they wait until
`ddp_timeout`, half an hour. Here rank 0 first tells all ranks how it went, so that they stop together (after
a checkpoint, see `served`) or recover together: wait for the restarted server, push the weights again, repeat
the generation. Nothing is generated twice by accident, because no request is repeated below this layer.

GRPO whose rollouts come from a vLLM server: sync metrics, the drift stop, a checkpoint when it is lost.

A frozen generator is the quiet failure of this topology: rewards move a little, little is learnt, no error
appears. The mean importance ratio does not show it: E[p_trainer / p_server] over what the server sampled is 1
for any two policies (2026-11-24: 0.998 with half of a model's weights stale). The mean difference of the
log-probabilities of the sampled tokens does: it was 0.012 then, and 1e-6 once all weights arrived. Both are
bounded here, the ratio for what truncation and masking do to it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from trl.generation.vllm_generation import VLLMGeneration

from r1kit.serving.session import ServerTrouble
from r1kit.serving.weight_sync import Transport
from r1kit.training import checkpoints
from r1kit.training.rl.server_connection import Link
from r1kit.training.watchdog import Stopped


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


RATIO = "sampling/importance_sampling_ratio/mean"
DIFFERENCE = "sampling/sampling_logp_difference/mean"


class ServedRollouts:
    """Mixed into a GRPOTrainer made inside `generating_through`; without a server it changes nothing."""

    drift: float | None = None
    """Bound of |mean importance ratio - 1| and of the mean |difference of log-probabilities|; None: off."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as TRL does, and log the metrics of the sync that may have come before."""
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
        """Generate and score as TRL does; save the trained weights before a training stops here.

        Raises:
            Stopped: the server is lost, or its policy is another (`check_drift`).
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
        """Save the last step's weights, unless they are saved already or a step is half done."""
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
        Stopped: they do.
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
        returncode=1,
    )


@contextlib.contextmanager
def generating_through(link: Link | None) -> Iterator[None]:
    """Let TRL's GRPOTrainer generate through `link` inside the block, and close it; None leaves TRL's own.

    TRL 1.16 names the class in its module and takes it from nowhere else.
    """
    from trl.trainer import grpo_trainer

    plain = grpo_trainer.VLLMGeneration
    if link is not None:
        grpo_trainer.VLLMGeneration = functools.partial(ServerGeneration, link=link)
    try:
        yield
    finally:
        grpo_trainer.VLLMGeneration = plain
        if link is not None and link.connected is not None:
            link.connected.close()
