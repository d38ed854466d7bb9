"""GRPO whose rollouts come from a vLLM server: sync metrics, the drift stop, a checkpoint when it is lost.

A frozen generator is the quiet failure of this topology: rewards move a little, little is learnt, no error
appears. The mean importance ratio does not show it: E[p_trainer / p_server] over what the server sampled is 1
for any two policies (2026-11-24: 0.998 with half of a model's weights stale). The mean difference of the
log-probabilities of the sampled tokens does: it was 0.012 then, and 1e-6 once all weights arrived. Both are
bounded here, the ratio for what truncation and masking do to it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from r1kit.training import checkpoints
from r1kit.training.server_generation import ServerGeneration
from r1kit.training.server_link import Link
from r1kit.training.watchdog import Stopped

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
