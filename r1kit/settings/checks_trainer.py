"""Rules about the trainers: batches, schedules and switches, as TRL 1.16 and transformers 5.17 count."""

from __future__ import annotations

from collections.abc import Iterator

from r1kit.settings.checks import rule
from r1kit.settings.checks_cluster import processes_of_grpo
from r1kit.settings.errors import Problem
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.view import View


def generation_batch(view: View) -> tuple[int, int]:
    """Completions of one generation block and the micro-steps that use it (GRPOConfig.__post_init__)."""
    step = view["grpo.per_device_train_batch_size"] * processes_of_grpo(view)
    size, steps = view["grpo.generation_batch_size"], view["grpo.steps_per_generation"]
    if size is not None:
        return size, max(1, size // step)
    steps = steps if steps is not None else view["grpo.gradient_accumulation_steps"]
    return step * steps, steps


@rule
def generation_batch_is_said_once(view: View) -> Iterator[Problem]:
    """GRPOConfig refuses both keys together, after the model was loaded."""
    both = view["grpo.generation_batch_size"] is not None and view["grpo.steps_per_generation"] is not None
    if both:
        message = "generation_batch_size and steps_per_generation say the same; TRL refuses both together."
        yield view.problem("grpo.generation_batch_size", message, "one of the two keys")


@rule
def generation_batch_is_whole_steps(view: View) -> Iterator[Problem]:
    """GRPOConfig refuses a generation batch that does not divide into micro-steps."""
    per_device, processes = view["grpo.per_device_train_batch_size"], processes_of_grpo(view)
    size = view["grpo.generation_batch_size"]
    if size is not None and view["grpo.steps_per_generation"] is None and size % (per_device * processes):
        allowed = (
            f"a multiple of {per_device * processes} = {per_device} per_device_train_batch_size x "
            f"{processes} processes"
        )
        yield view.problem(
            "grpo.generation_batch_size", "The generation batch is no whole number of steps.", allowed
        )


@rule
def generation_batch_holds_whole_groups(view: View) -> Iterator[Problem]:
    """Advantages compare the completions of one prompt: a group must not be cut by the end of the batch."""
    size, steps = generation_batch(view)
    group = view["grpo.num_generations"]
    if group and size % group:
        per_device, processes = view["grpo.per_device_train_batch_size"], processes_of_grpo(view)
        written = view.given("grpo.generation_batch_size")
        key = "grpo.generation_batch_size" if written else "grpo.per_device_train_batch_size"
        sum_ = f"= {per_device} per device x {processes} processes x {steps} steps, " if not written else ""
        message = (
            f"A generation batch of {size} completions {sum_}does not divide into groups of {group} "
            "(num_generations)."
        )
        yield view.problem(key, message, f"a generation batch that is a multiple of {group}")


@rule
def grpo_has_enough_prompts(view: View) -> Iterator[Problem]:
    """TRL drops an incomplete generation batch: with too few prompts there would be no step at all."""
    size, _ = generation_batch(view)
    prompts = size // view["grpo.num_generations"]
    if view["data.prompts"] < prompts:
        message = f"One generation batch of grpo.yaml asks {prompts} different prompts."
        yield view.problem("data.prompts", message, f"at least {prompts}")


@rule
def checkpoints_lie_between_generations(view: View) -> Iterator[Problem]:
    """A checkpoint inside a generation block cannot be resumed exactly: its other completions are lost."""
    save, accumulation = view["grpo.save_steps"], view["grpo.gradient_accumulation_steps"]
    block = generation_batch(view)[1] * view["grpo.num_iterations"]
    if view["grpo.save_strategy"] == "steps" and save >= 1 and (save * accumulation) % block:
        least = next(n for n in range(1, block + 1) if (n * accumulation) % block == 0)
        message = f"Completions are generated every {least} steps; a checkpoint between them cannot resume."
        yield view.problem("grpo.save_steps", message, f"a multiple of {least}")


@rule
def half_precision_is_off_on_a_cpu(view: View) -> Iterator[Problem]:
    """TRL turns bf16 on where the file does not say; on a CPU that fails or is 50 to 500 times slower."""
    for section in TRAINER_SECTIONS:
        if view["machine.device"] != "cpu" or not view.has(section):
            continue
        message = "machine.yaml says device: cpu, where only float32 is fast."
        fp16 = view[f"{section}.fp16"]
        if fp16:
            yield view.problem(f"{section}.fp16", message, "false")
        bf16 = view[f"{section}.bf16"]
        if bf16 or (bf16 is None and not fp16):
            default = "" if bf16 else " TRL turns bf16 on when the key is missing."
            found = "" if bf16 else "nothing, which TRL reads as true"
            yield view.problem(f"{section}.bf16", message + default, "false", found=found)
        if view[f"{section}.dtype"] in ("bfloat16", "float16"):
            yield view.problem(f"{section}.dtype", message, "float32")


@rule
def one_half_precision_at_most(view: View) -> Iterator[Problem]:
    """transformers refuses fp16 and bf16 together."""
    for section in TRAINER_SECTIONS:
        if view.has(section) and view[f"{section}.fp16"] and view[f"{section}.bf16"]:
            yield view.problem(f"{section}.bf16", "fp16 and bf16 are both on.", "one of the two")


@rule
def trainer_uses_the_device(view: View) -> Iterator[Problem]:
    """The trainer would use another device than the profile says."""
    device = view["machine.device"]
    for section in TRAINER_SECTIONS:
        key = f"{section}.use_cpu"
        if view.given(key) and device != "auto" and view[key] != (device == "cpu"):
            yield view.problem(key, f"machine.yaml says device: {device}.", str(device == "cpu").lower())


@rule
def length_of_training_is_said_once(view: View) -> Iterator[Problem]:
    """max_steps silently wins over num_train_epochs; 0 or less than -1 trains nothing or all epochs."""
    for section in TRAINER_SECTIONS:
        if not view.has(section):
            continue
        steps = view[f"{section}.max_steps"]
        if steps == 0 or steps < -1:
            message = "-1 means: as many steps as num_train_epochs take."
            yield view.problem(f"{section}.max_steps", message, "1 or more, or -1")
        if steps > 0 and view.given(f"{section}.num_train_epochs"):
            message = f"max_steps is {steps} and wins; the epochs would have no effect."
            yield view.problem(
                f"{section}.num_train_epochs", message, "max_steps or num_train_epochs, not both"
            )


@rule
def warmup_ends_before_training(view: View) -> Iterator[Problem]:
    """The learning rate would never reach the value in the file."""
    for section in TRAINER_SECTIONS:
        if view.has(section) and view[f"{section}.warmup_steps"] >= view[f"{section}.max_steps"] > 0:
            steps = view[f"{section}.max_steps"]
            yield view.problem(
                f"{section}.warmup_steps", "Warm-up would last to the end.", f"less than max_steps, {steps}"
            )


@rule
def muon_is_the_only_optimizer(view: View) -> Iterator[Problem]:
    """`optim` would have no effect."""
    for section in TRAINER_SECTIONS:
        if view.given(f"{section}.optim") and view[f"{section}.optimizer"] == "muon":
            yield view.problem(
                f"{section}.optim", "optimizer: muon takes its place.", "no such key beside muon"
            )


@rule
def rows_are_packed_one_way(view: View) -> Iterator[Problem]:
    """Our rows and TRL's packing exclude each other, and a row needs a length."""
    if not view["sft.row_packing"]:
        return
    for key in ("sft.packing", "sft.padding_free"):
        if view[key]:
            yield view.problem(key, "row_packing: true already packs, in rows.", "false")
    if view["sft.max_length"] is None:
        yield view.problem("sft.max_length", "row_packing needs the length of a row.", "a whole number")


@rule
def grpo_batch_is_fixed(view: View) -> Iterator[Problem]:
    """GRPOConfig refuses it: a smaller batch would no longer hold whole groups."""
    if view["grpo.auto_find_batch_size"]:
        message = "GRPO cannot shrink its batch by itself; lower per_device_train_batch_size."
        yield view.problem("grpo.auto_find_batch_size", message, "false")


@rule
def best_model_needs_evaluation(view: View) -> Iterator[Problem]:
    """transformers refuses it after the model was loaded."""
    for section in TRAINER_SECTIONS:
        if (
            view.has(section)
            and view[f"{section}.load_best_model_at_end"]
            and view[f"{section}.eval_strategy"] == "no"
        ):
            message = "Without evaluations while training (eval_strategy) there is no best model."
            yield view.problem(f"{section}.load_best_model_at_end", message, "false")
