"""Rules about recipes: ends of answers, packing, rewards and rates, held to what published runs did."""

from __future__ import annotations

from collections.abc import Iterator

from r1kit.settings.checks import advice, rule
from r1kit.settings.checks_trainer import generation_batch
from r1kit.settings.errors import Problem
from r1kit.settings.known_models import KNOWN_MODELS
from r1kit.settings.models import TRAINER_SECTIONS
from r1kit.settings.view import View

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


def known_model(view: View, section: str):
    """The shape of the hub model that a section names, None for others."""
    return KNOWN_MODELS.get(str(view[f"{section}.model_name_or_path"]))


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


@rule
def being_right_pays_more_than_form(view: View) -> Iterator[Problem]:
    """With equal weights a wrong answer in good form earns as much as a right one without: the policy
    learns the form and stops there.
    """
    rewards = view["grpo.rewards"]
    answer = sum(reward.get("weight", 1.0) for reward in rewards if reward["name"] in ANSWERS)
    form = sum(reward.get("weight", 1.0) for reward in rewards if reward["name"] in FORMS)
    if answer and form > 2 * answer:
        message = f"Form earns {form:g}, being right {answer:g}."
        yield view.problem("grpo.rewards", message, "form at most a quarter of accuracy")


@advice
def form_is_a_small_reward(view: View) -> Iterator[Problem]:
    """Every published 7B run weights form at most a quarter of accuracy (open-r1 issues 373, 407)."""
    rewards = view["grpo.rewards"]
    answer = sum(reward.get("weight", 1.0) for reward in rewards if reward["name"] in ANSWERS)
    form = sum(reward.get("weight", 1.0) for reward in rewards if reward["name"] in FORMS)
    if answer and answer / 2 < form <= 2 * answer:
        message = f"Form earns {form:g}, being right {answer:g}: form is the easier to learn, and is."
        yield view.problem("grpo.rewards", message, "form at most a quarter of accuracy")


@advice
def rates_are_near_published_ones(view: View) -> Iterator[Problem]:
    """Rates do not follow from anything: ten times a published one is a collapse, a tenth is a standstill."""
    for section, (least, most, source) in PUBLISHED.items():
        model = known_model(view, "sft" if view[f"{section}.model_name_or_path"] == "02_sft" else section)
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
    for section in TRAINER_SECTIONS:
        if view.has(section) and view[f"{section}.lr_scheduler_type"] == "cosine_with_min_lr":
            keywords = view[f"{section}.lr_scheduler_kwargs"] or {}
            if isinstance(keywords, dict) and not {"min_lr", "min_lr_rate"} & set(keywords):
                message = "cosine_with_min_lr needs its least rate."
                yield view.problem(f"{section}.lr_scheduler_kwargs", message, "{min_lr_rate: 0.1}")


@advice
def the_reference_model_is_wanted(view: View) -> Iterator[Problem]:
    """beta > 0 keeps a second, frozen copy of the weights on every device, and one more pass per token."""
    model = known_model(view, "sft" if view["grpo.model_name_or_path"] == "02_sft" else "grpo")
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
