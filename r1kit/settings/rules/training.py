"""Rules about the trainers: batches, schedules, recipes, rollouts, rewards, curriculum.

Counted as TRL 1.16 and transformers 5.17 count; recipes are compared with published runs. TRL runs with many
of these mistakes and learns less, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from r1kit.settings.errors import Problem
from r1kit.settings.known_models import KNOWN_MODELS
from r1kit.settings.rewards import REWARDS, Reward
from r1kit.settings.rules.view import (
    View,
    advice,
    entries,
    generation_batch,
    known_model,
    mode,
    processes_of_grpo,
    rule,
)
from r1kit.settings.training import DEFINING, DynamicSamplingSettings, same


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
    for section in view.trainers:
        if view["machine.device"] != "cpu":
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
    for section in view.trainers:
        if view[f"{section}.fp16"] and view[f"{section}.bf16"]:
            yield view.problem(f"{section}.bf16", "fp16 and bf16 are both on.", "one of the two")


@rule
def trainer_uses_the_device(view: View) -> Iterator[Problem]:
    """The trainer would use another device than the profile says."""
    device = view["machine.device"]
    for section in view.trainers:
        key = f"{section}.use_cpu"
        if view.given(key) and device != "auto" and view[key] != (device == "cpu"):
            yield view.problem(key, f"machine.yaml says device: {device}.", str(device == "cpu").lower())


@rule
def length_of_training_is_said_once(view: View) -> Iterator[Problem]:
    """max_steps silently wins over num_train_epochs; 0 or less than -1 trains nothing or all epochs."""
    for section in view.trainers:
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
    for section in view.trainers:
        if view[f"{section}.warmup_steps"] >= view[f"{section}.max_steps"] > 0:
            steps = view[f"{section}.max_steps"]
            yield view.problem(
                f"{section}.warmup_steps", "Warm-up would last to the end.", f"less than max_steps, {steps}"
            )


@rule
def muon_is_the_only_optimizer(view: View) -> Iterator[Problem]:
    """`optim` would have no effect."""
    for section in view.trainers:
        if view.given(f"{section}.optim") and view[f"{section}.optimizer"] == "muon":
            yield view.problem(f"{section}.optim", "optimizer: muon replaces it.", "no such key beside muon")


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
    for section in view.trainers:
        if view[f"{section}.load_best_model_at_end"] and view[f"{section}.eval_strategy"] == "no":
            message = "Without evaluations while training (eval_strategy) there is no best model."
            yield view.problem(f"{section}.load_best_model_at_end", message, "false")


@rule
def collapse_is_steeper(view: View) -> Iterator[Problem]:
    """The lesson shows a collapse; with a smaller learning rate there is none to see."""
    rate = view["grpo.learning_rate"]
    if view["grpo.collapse.learning_rate"] <= rate:
        allowed = f"more than {rate}, learning_rate of grpo.yaml"
        message = "The run that fails on purpose needs a larger learning rate than the real one."
        yield view.problem("grpo.collapse.learning_rate", message, allowed)


FORMS = ("format", "tag_count", "think_format", "code_format", "reasoning_steps")
ANSWERS = ("accuracy", "code", "binary_code")
PUBLISHED = {
    # open-r1's SFT recipes lie between 1e-5 and 4e-5.
    "sft": (2e-6, 1e-4, "4e-5; open-r1's 7B recipes: 1e-5 to 4e-5"),
    # open-r1's 7B GRPO runs 1e-6, R1-Zero 3e-6; the demo with 2e-5 collapsed (issues 255, 373, 407).
    "grpo": (1e-7, 6e-6, "1e-6; published 7B runs: 1e-6 to 3e-6"),
}
ADAPTERS = 10
"""LoRA takes about ten times the rate of full training (arXiv 2106.09685 and common practice)."""


@rule
def answers_end_where_the_template_ends(view: View) -> Iterator[Problem]:
    """The model learns to write the template's end, generation waits for the tokenizer's: it never stops
    (open-r1 issues 492, 604). Qwen's base models have this trap.
    """
    model = known_model(view, "sft")
    if model is None or not model.turn_end:
        return
    eos = view["sft.eos_token"] or model.eos_token
    if eos != model.turn_end:
        message = f"The chat template ends an answer with {model.turn_end}; generation would go on after it."
        found = f"{eos}, the tokenizer's own" if not view.given("sft.eos_token") else ""
        yield view.problem("sft.eos_token", message, model.turn_end, model.turn_end, found=found)


@rule
def packed_traces_need_an_attention_that_knows(view: View) -> Iterator[Problem]:
    """TRL lays packed rows end to end. Eager attention then stores scores of the whole length squared."""
    if view["sft.packing"] and view["sft.packing_strategy"] != "wrapped":
        attention = view["sft.attn_implementation"] or "sdpa"
        tokens = view["sft.per_device_train_batch_size"] * (view["sft.max_length"] or 0)
        if "flash" not in attention and "flex" not in attention and tokens > 4096:
            message = (
                f"Packing flattens a micro-step to {tokens:,} tokens, whose square {attention} attention "
                "computes; traces stay apart only where no attention mask is given."
            )
            allowed = "flash_attention_2, or row_packing: true instead of packing"
            yield view.problem("sft.attn_implementation", message, allowed, "flash_attention_2")


@rule
def our_rows_need_a_mask(view: View) -> Iterator[Problem]:
    """Flash attention reads documents from positions only in a batch of one row: rows would mix."""
    attention = view["sft.attn_implementation"] or ""
    if view["sft.row_packing"] and "flash" in attention:
        message = "With flash attention the traces of a row would see each other."
        yield view.problem("sft.row_packing", message, "packing: true instead, or attn_implementation: sdpa")


@advice
def packed_traces_stay_whole(view: View) -> Iterator[Problem]:
    """`wrapped` cuts traces anywhere and lets them see each other: open-r1 found it consistently worse."""
    if view["sft.packing"] and view["sft.packing_strategy"] == "wrapped":
        message = "Traces are cut between rows, away from their questions, and see each other in a row."
        yield view.problem("sft.packing_strategy", message, "bfd, with flash_attention_2", "bfd")


def weight_of(view: View, names: tuple[str, ...]) -> float:
    """Sum the weights of the rewards with these names."""
    return sum(reward.get("weight", 1.0) for reward in view["grpo.rewards"] if reward["name"] in names)


@rule
def being_right_pays_more_than_form(view: View) -> Iterator[Problem]:
    """With equal weights a wrong answer in good form earns as much as a right one without: the policy
    learns the form and stops there.
    """
    answer, form = weight_of(view, ANSWERS), weight_of(view, FORMS)
    if answer and form > 2 * answer:
        message = f"Form earns {form:g}, being right {answer:g}."
        yield view.problem("grpo.rewards", message, "form at most a quarter of accuracy")


@advice
def form_is_a_small_reward(view: View) -> Iterator[Problem]:
    """Every published 7B run weights form at most a quarter of accuracy (open-r1 issues 373, 407)."""
    answer, form = weight_of(view, ANSWERS), weight_of(view, FORMS)
    if answer and answer / 2 < form <= 2 * answer:
        message = f"Form earns {form:g}, being right {answer:g}: form is the easier to learn, and is."
        yield view.problem("grpo.rewards", message, "form at most a quarter of accuracy")


@advice
def rates_are_near_published_ones(view: View) -> Iterator[Problem]:
    """Rates do not follow from anything: ten times a published one is a collapse, a tenth is a standstill."""
    for section, (least, most, source) in PUBLISHED.items():
        model = known_model(view, section, follow=True)
        if model is None:
            continue
        scale = ADAPTERS if view[f"{section}.use_peft"] else 1
        rate = view[f"{section}.learning_rate"]
        if not least * scale <= rate <= most * scale:
            yield view.problem(f"{section}.learning_rate", "Far from published rates.", source)


@advice
def grpo_goes_on_from_the_sft(view: View) -> Iterator[Problem]:
    """Two stages that start from the same model are R1-Zero beside a distillation, not R1."""
    model = view["grpo.model_name_or_path"]
    if model in KNOWN_MODELS and known_model(view, "sft"):
        message = (
            "GRPO starts from a hub model: what the SFT learned is not used (for R1-Zero that is meant)."
        )
        yield view.problem("grpo.model_name_or_path", message, "02_sft", "02_sft")


@advice
def a_step_has_enough_prompts(view: View) -> Iterator[Problem]:
    """R1-Zero takes 32 prompts a step, open-r1 32 to 64: fewer are a noisy gradient."""
    prompts = generation_batch(view)[0] // view["grpo.num_generations"]
    if view["data.source"] == "hub" and prompts < 16 and not view["grpo.use_peft"]:
        allowed = "32 prompts a step: more gradient_accumulation_steps"
        yield view.problem("grpo.gradient_accumulation_steps", f"A step has {prompts} prompts.", allowed)


@advice
def cut_completions_are_masked(view: View) -> Iterator[Problem]:
    """A cut thought earns 0 like a wrong one: the policy learns to think less."""
    long = view["grpo.max_completion_length"] >= 2048
    if view["data.source"] == "hub" and long and not view["grpo.mask_truncated_completions"]:
        message = "Completions that reach max_completion_length would count as wrong."
        yield view.problem("grpo.mask_truncated_completions", message, "true")


@rule
def least_rate_is_said(view: View) -> Iterator[Problem]:
    """transformers refuses the schedule without its least rate, after the model was loaded."""
    for section in view.trainers:
        if view[f"{section}.lr_scheduler_type"] == "cosine_with_min_lr":
            keywords = view[f"{section}.lr_scheduler_kwargs"] or {}
            if isinstance(keywords, dict) and not {"min_lr", "min_lr_rate"} & set(keywords):
                message = "cosine_with_min_lr needs its least rate."
                yield view.problem(f"{section}.lr_scheduler_kwargs", message, "{min_lr_rate: 0.1}")


@advice
def the_reference_model_is_wanted(view: View) -> Iterator[Problem]:
    """beta > 0 keeps a second, frozen copy of the weights on every device, and one more pass per token."""
    model = known_model(view, "grpo", follow=True)
    if view["grpo.beta"] > 0 and model is not None and not view["grpo.use_peft"]:
        gigabytes = 2 * model.parameters / 1e9
        message = f"beta > 0 loads a reference model, {gigabytes:.0f} GB more on every device."
        yield view.problem("grpo.beta", message, "0.0, as open-r1's 7B runs")


@rule
def a_synced_reference_needs_beta(view: View) -> Iterator[Problem]:
    """Without beta there is no reference model that could be synchronised."""
    if view["grpo.sync_ref_model"] and view["grpo.beta"] == 0:
        message = "beta is 0: there is no reference model to synchronise."
        yield view.problem("grpo.sync_ref_model", message, "false, or beta: 0.001")


LONG = 1024  # tokens; from here on sequence-level correction silences completions (see the rule)


def corrected(view: View) -> bool:
    """Return True if the trainer corrects for the difference to vLLM's log-probabilities."""
    return bool(mode(view)) and bool(view["grpo.vllm_importance_sampling_correction"])


@rule
def a_cpu_serves_from_a_server(view: View) -> Iterator[Problem]:
    """vLLM inside the trainer needs a GPU."""
    if mode(view) == "colocate" and view["machine.device"] == "cpu":
        yield view.problem("grpo.vllm_mode", "device: cpu has no GPU to share.", "server", "server")


@rule
def long_completions_keep_their_weight(view: View) -> Iterator[Problem]:
    """TRL's default sequence_mask weighs a completion by exp(sum of its tokens' differences): with 0.02 nats
    of noise a token the mean weight left is 0.92 at 1,000 tokens, 0.58 at 4,000, 0.18 at 16,000. They stop
    teaching.
    """
    how, length = view["grpo.vllm_importance_sampling_mode"], view["grpo.max_completion_length"]
    if corrected(view) and how.startswith("sequence_") and length > LONG:
        message = f"At {length} tokens the product of all ratios silences long completions."
        allowed = "token_truncate or token_mask"
        yield view.problem("grpo.vllm_importance_sampling_mode", message, allowed, "token_truncate")


@rule
def the_sampler_is_the_policy(view: View) -> Iterator[Problem]:
    """vLLM renormalises over the tokens it kept, the trainer does not: every ratio is off by the kept mass
    (0.896 on average at top_p 0.8; TRL issue 6789).
    """
    if not corrected(view):
        return
    off = {
        "top_p": (1.0, None),
        "top_k": (0, -1, None),
        "min_p": (0, None),
        "repetition_penalty": (1.0, None),
    }
    for name, values in off.items():
        if view[f"grpo.{name}"] not in values:
            message = "The trainer's log-probabilities know nothing of it: all importance ratios are biased."
            allowed = f"{values[0]:g}, or vllm_importance_sampling_correction: false"
            yield view.problem(f"grpo.{name}", message, allowed)


@rule
def only_vllm_inside_the_trainer_sleeps(view: View) -> Iterator[Problem]:
    """TRL puts vLLM to sleep only where it shares the trainer's GPU; elsewhere the memory stays taken."""
    if view["grpo.vllm_enable_sleep_mode"] and mode(view) != "colocate":
        message = "Only vLLM inside the trainer (vllm_mode: colocate) sleeps; here the key does nothing."
        yield view.problem("grpo.vllm_enable_sleep_mode", message, "false", "false")


@advice
def awake_is_faster_where_both_fit(view: View) -> Iterator[Problem]:
    """TRL sleeps at level 2, which throws the weights away: every generation begins with a transfer of all of
    them, even where nothing was trained in between. A 7B model and its training fit side by side into 141 GB.
    """
    if view["grpo.vllm_enable_sleep_mode"] and mode(view) == "colocate":
        message = "Each generation loads all weights again; leave it off where trainer and vLLM fit together."
        yield view.problem("grpo.vllm_enable_sleep_mode", message, "false, unless `r1kit plan` says no")


@rule
def algorithm_is_what_its_name_says(view: View) -> Iterator[Problem]:
    """The file would name one paper's algorithm and train with another's."""
    name = view["grpo.algorithm"]
    for key, value in DEFINING.get(name, {}).items():
        if view.given(f"grpo.{key}") and not same(key, view[f"grpo.{key}"], value):
            allowed = f"{value}, or no such key, or another algorithm"
            yield view.problem(f"grpo.{key}", f"algorithm: {name} is {key}: {value}.", allowed)


@rule
def curriculum_reads_a_reward(view: View) -> Iterator[Problem]:
    """Pass rates would come from a reward that is not computed."""
    names = [entry["name"] for entry in view["grpo.rewards"]]
    strategy = view["grpo.curriculum.strategy"]
    if strategy in ("levels", "pass_rate") and (reward := _reward(view)) not in names:
        message = f"The curriculum reads pass rates from the reward {reward}, which grpo.yaml does not have."
        yield view.problem("grpo.curriculum.reward", message, ", ".join(names), found=reward)


@rule
def lengths_belong_to_their_strategy(view: View) -> Iterator[Problem]:
    """Stages without the strategy would have no effect; the strategy without stages would change nothing."""
    has = view.given("grpo.curriculum.lengths") and bool(view["grpo.curriculum.lengths"])
    if view["grpo.curriculum.strategy"] == "length" and not has:
        message = "strategy: length needs its stages."
        allowed = "lengths: [{step: 0, max_completion_length: ...}, ...]"
        yield view.problem("grpo.curriculum.lengths", message, allowed, found="nothing")
    if view["grpo.curriculum.strategy"] != "length" and has:
        yield view.problem("grpo.curriculum.lengths", "They have no effect.", "strategy: length")


@rule
def lengths_grow_to_the_limit(view: View) -> Iterator[Problem]:
    """Memory, context and the constant of dr_grpo are those of max_completion_length: the last stage's."""
    stages, limit = view["grpo.curriculum.lengths"], view["grpo.max_completion_length"]
    if not stages:
        return
    steps = [stage["step"] for stage in stages]
    lengths = [stage["max_completion_length"] for stage in stages]
    grow = all(a < b for numbers in (steps, lengths) for a, b in pairwise(numbers))
    if steps[0] != 0 or not grow:
        message = "Stages begin at step 0, one after the other, each with longer completions."
        yield view.problem("grpo.curriculum.lengths", message, "steps and lengths that rise, from step 0")
    if lengths[-1] != limit:
        message = f"The last stage is {lengths[-1]} tokens long and max_completion_length is {limit}."
        yield view.problem("grpo.curriculum.lengths", message, f"{limit} in the last stage, or another limit")
    if steps[-1] >= view["grpo.max_steps"] > 0:
        message = "The last stage would never begin."
        yield view.problem("grpo.curriculum.lengths", message, f"steps below {view['grpo.max_steps']}")


@rule
def extra_groups_have_prompts(view: View) -> Iterator[Problem]:
    """A step asks different prompts; the ones in addition must be there too."""
    if view["grpo.dynamic_sampling"] is None:
        return
    key = "grpo.dynamic_sampling.max_extra"
    extra = view[key] if view.given(key) else DynamicSamplingSettings().max_extra
    prompts = generation_batch(view)[0] // view["grpo.num_generations"]
    most = prompts + int(prompts * extra)
    if view["data.prompts"] < most:
        message = f"A step asks {prompts} prompts and up to {most - prompts} in addition."
        yield view.problem("data.prompts", message, f"at least {most}")


@rule
def each_process_chooses_whole_groups(view: View) -> Iterator[Problem]:
    """Groups are chosen, replaced and scored whole; the trainer refuses a group over two processes."""
    if view["grpo.curriculum"] is None and view["grpo.dynamic_sampling"] is None:
        return
    rows, group = generation_batch(view)[0] // processes_of_grpo(view), view["grpo.num_generations"]
    if rows % group:
        message = f"Each process holds {rows} completions of a generation: no whole groups of {group}."
        allowed = f"a batch that is a multiple of {group} on each process, or no curriculum"
        yield view.problem("grpo.per_device_train_batch_size", message, allowed)


@advice
def dr_grpo_at_stages_keeps_its_constant(view: View) -> Iterator[Problem]:
    """With a constant of the last stage, tokens of the short first stage weigh less than they would alone."""
    if view["grpo.curriculum.strategy"] == "length" and view["grpo.loss_type"] == "dr_grpo":
        message = (
            "dr_grpo divides by max_completion_length in all stages, so that a new stage does not change the "
            "step's size: a learning rate found at a shorter length must be scaled up."
        )
        yield view.problem("grpo.learning_rate", message, "a rate found at max_completion_length")


def _reward(view: View) -> str:
    key = "grpo.curriculum.reward"
    return view[key] if view.given(key) else "accuracy"


def rewards(view: View) -> Iterator[tuple[str, Any]]:
    """Yield (key, reward with its defaults) for each entry of `rewards`."""
    for key, reward in entries(view, "grpo.rewards"):
        yield key, REWARDS[reward["name"]].model_validate(reward)


def named(view: View, kind: type[Reward]) -> Iterator[tuple[str, Any]]:
    """Yield the rewards of one kind."""
    return ((key, reward) for key, reward in rewards(view) if isinstance(reward, kind))


@rule
def rewards_are_named_once(view: View) -> Iterator[Problem]:
    """The second weight of a name would silently add to the first, and metrics would carry one name twice."""
    names = [reward.name for _, reward in rewards(view)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield view.problem("grpo.rewards", f"The reward {name} is named twice.", "each reward once")


@rule
def some_reward_has_weight(view: View) -> Iterator[Problem]:
    """With all weights zero every advantage is zero and nothing is learned."""
    if not any(reward.weight for _, reward in rewards(view)):
        yield view.problem(
            "grpo.rewards", "All weights are zero: there is nothing to learn.", "one weight that is not 0"
        )


@rule
def rewards_see_the_dataset(view: View) -> Iterator[Problem]:
    """The accuracy reward compares with the column `solution`, which would be dropped."""
    if view["grpo.remove_unused_columns"]:
        message = "The columns `solution` and `verification_info` would not reach the rewards."
        yield view.problem("grpo.remove_unused_columns", message, "false")


@rule
def cosine_values_rise(view: View) -> Iterator[Problem]:
    """With the defaults of open-r1's config (cosine_min_value_wrong 0.0) long wrong answers lost more than
    short ones: a model that is wrong learns to give up early, the opposite of what the reward is for.
    """
    order = ("min_value_wrong", "max_value_wrong", "min_value_correct", "max_value_correct")
    for key, reward in named(view, REWARDS["cosine"]):
        for low, high in pairwise(order):
            value, bound = getattr(reward, low), getattr(reward, high)
            if value > bound:
                message = "Short wrong answers or long right ones would earn most."
                yield view.problem(f"{key}.{low}", message, f"at most {high}, {bound}", found=str(value))


@rule
def one_form_is_rewarded(view: View) -> Iterator[Problem]:
    """`<answer>` tags break R1's own form, so no completion could earn both."""
    names = {reward.name: key for key, reward in rewards(view)}
    other = next((name for name in ("format", "tag_count", "code_format") if name in names), None)
    if "think_format" in names and other:
        message = f"No completion can have both this form and that of {other}."
        yield view.problem(f"{names['think_format']}.name", message, "one of the two")


@rule
def overlong_line_fits_the_limit(view: View) -> Iterator[Problem]:
    """The punishment would begin before the first token, or never because completions end earlier."""
    limit = view["grpo.max_completion_length"]
    for key, reward in named(view, REWARDS["soft_overlong_punishment"]):
        longest = reward.max_completion_len or limit
        if longest > limit:
            message = "Completions end at max_completion_length: the punishment would never be whole."
            yield view.problem(f"{key}.max_completion_len", message, f"at most {limit}, or null")
        if reward.soft_punish_cache >= longest:
            message = "The line down to -1 would begin before the first token."
            yield view.problem(f"{key}.soft_punish_cache", message, f"less than {longest}")


@rule
def length_compares_whole_groups(view: View) -> Iterator[Problem]:
    """Each process rewards its own completions: a group cut by the end of its batch would be two groups."""
    group, steps = view["grpo.num_generations"], generation_batch(view)[1]
    own = view["grpo.per_device_train_batch_size"] * steps
    for key, _ in named(view, REWARDS["length"]):
        if own % group:
            message = f"The length reward compares a prompt's completions, but a process holds {own} at once."
            allowed = f"completions per process that are a multiple of {group}, num_generations"
            yield view.problem(key, message, allowed, found="name: length")
