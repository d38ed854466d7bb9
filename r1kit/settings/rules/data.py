"""Rules about data, models and evaluation, and about the stages of pipeline.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from r1kit.settings.data import PromptDataset, TraceDataset
from r1kit.settings.errors import Problem, nearest_name
from r1kit.settings.evaluation import PROMPT_ROOM
from r1kit.settings.known_models import trace_lengths
from r1kit.settings.lessons import MODEL_STAGES, STAGE_OF_SECTION, STAGES
from r1kit.settings.pipelines import DATA_KINDS, GIVEN, MAY_SET, MODEL_KINDS, PROMPT_KINDS, RESERVED
from r1kit.settings.rules.view import NotKnown, View, advice, entries, rule


@rule
def headline_levels_are_held_out(view: View) -> Iterator[Problem]:
    """Evaluation would find no problems for a level."""
    held_out = view["data.heldout_levels"]
    missing = [level for level in view["evaluation.levels"] if level not in held_out]
    if missing:
        allowed = f"levels among heldout_levels of data.yaml: {held_out}"
        yield view.problem("evaluation.levels", f"No problems are held out for {missing}.", allowed)


@rule
def levels_are_written_once(view: View) -> Iterator[Problem]:
    """A level written twice would count double in every mean."""
    for name in ("data.levels", "data.heldout_levels", "evaluation.levels"):
        if view.given(name) and len(set(view[name])) < len(view[name]):
            yield view.problem(name, "A level is written twice.", "each level once")


@rule
def enough_problems_are_held_out(view: View) -> Iterator[Problem]:
    """Evaluation would ask for more problems than there are."""
    most = view["data.heldout_per_level"]
    if view["evaluation.problems_per_level"] > most:
        allowed = f"at most {most}, heldout_per_level of data.yaml"
        yield view.problem("evaluation.problems_per_level", "So many problems are not held out.", allowed)


@rule
def k_needs_as_many_samples(view: View) -> Iterator[Problem]:
    """pass@k is not defined with fewer than k samples."""
    samples = view["evaluation.samples"]
    if max(view["evaluation.k"]) > samples:
        message = "pass@k needs at least k samples of each problem."
        yield view.problem("evaluation.k", message, f"at most {samples}, samples of evaluation.yaml")


# Traces of these datasets are `<think>...</think>` and then the solution, with no `<answer>` tag.
THINK_ONLY = get_args(TraceDataset)
CONFIGS = {
    "open-r1/Mixture-of-Thoughts": ("all", "math", "code", "science"),
    "open-r1/OpenR1-Math-220k": ("default", "all", "extended"),
    "open-r1/DAPO-Math-17k-Processed": ("all", "en", "cn"),
    "open-r1/codeforces": ("verifiable-prompts",),  # the others hold no prompts
    "AI-MO/NuminaMath-CoT": ("default",),
    "open-r1/codeforces-cots": tuple(
        f"solutions{editorials}{language}{decontaminated}"
        for editorials in ("", "_w_editorials")
        for language in ("", "_py")
        for decontaminated in ("", "_decontaminated")
    ),
}
"""Parts of the datasets that hold what we read; the parts of other datasets are not checked."""
CODE_PROMPTS = "open-r1/codeforces"
ANSWER_TAGS = ("format", "tag_count", "code_format")


@rule
def the_base_model_reads_stories(view: View) -> Iterator[Problem]:
    """base.yaml's tokenizer has 400 tokens, made of the stories: it cannot write real problems."""
    if view["data.source"] == "hub" and view.has("base"):
        message = "base.yaml makes a model for the embedded stories; real data needs a pretrained one."
        yield view.problem("data.source", message, "stories, or a profile without base.yaml")


@rule
def evaluation_fits_the_data(view: View) -> Iterator[Problem]:
    """Levels exist only among the stories, benchmarks only among real problems."""
    hub, benchmarks = view["data.source"] == "hub", view.given("evaluation.benchmarks")
    if hub and not benchmarks and view.has("evaluation"):
        message = "data.yaml has real data, which has no levels."
        yield view.problem("evaluation.benchmarks", message, "benchmarks: {aime24: 64, math_500: 4}")
    if not hub and benchmarks:
        message = "data.yaml has stories; a model of stories cannot read these benchmarks."
        yield view.problem("evaluation.benchmarks", message, "levels and problems_per_level")


@rule
def gold_is_an_answer(view: View) -> Iterator[Problem]:
    """A prose solution parses to a wrong number: right answers would earn 0."""
    for key, source in entries(view, "data.prompts_from"):
        column = source.get("solution_column")
        if source["dataset"] == "open-r1/OpenR1-Math-220k" and column == "solution":
            message = "The column `solution` of OpenR1-Math-220k is prose; golds would be wrong numbers."
            yield view.problem(f"{key}.solution_column", message, "answer", "answer")


@rule
def pass_rate_is_a_band(view: View) -> Iterator[Problem]:
    """No prompt would be left."""
    for key, source in entries(view, "data.prompts_from"):
        band = source.get("pass_rate")
        if band and not 0 <= band[0] < band[1] <= 1:
            allowed = "[least, most] between 0 and 1"
            yield view.problem(f"{key}.pass_rate", "No prompt has such a pass rate.", allowed)


@rule
def a_known_part_of_the_dataset(view: View) -> Iterator[Problem]:
    """The hub would refuse the name after the model was downloaded."""
    for name in ("data.traces_from", "data.prompts_from"):
        for key, source in entries(view, name):
            parts, part = CONFIGS.get(source["dataset"]), source.get("config", "default")
            if parts and part not in parts:
                message = f"{source['dataset'].split('/')[1]} has no such part with what is read here."
                nearest = nearest_name(part, parts) or parts[0]
                yield view.problem(f"{key}.config", message, ", ".join(parts), nearest, found=str(part))


@rule
def pass_rates_belong_to_a_band(view: View) -> Iterator[Problem]:
    """The rates would be read and used for nothing."""
    for key, source in entries(view, "data.prompts_from"):
        if source.get("pass_rates") and not source.get("pass_rate"):
            message = "No band says which prompts to keep."
            yield view.problem(f"{key}.pass_rates", message, "with pass_rate: [0.1, 0.6]")


@rule
def rewards_can_judge_the_prompts(view: View) -> Iterator[Problem]:
    """A reward that cannot judge a row leaves it out of the training; with all rows left out it stops."""
    names = {reward["name"] for reward in view["grpo.rewards"]}
    judges = names & {"code", "binary_code"}
    for entry, source in entries(view, "data.prompts_from"):
        code, key = source["dataset"] == CODE_PROMPTS, f"{entry}.dataset"
        if source["dataset"] not in get_args(PromptDataset):
            continue  # a local file may hold either
        if code and "accuracy" in names:
            message = "The accuracy reward cannot score programs."
            yield view.problem(key, message, "problems with answers, or only code rewards")
        elif code and not judges:
            yield view.problem(key, "No reward of grpo.yaml runs programs.", "the reward code or binary_code")
        elif judges and not code:
            yield view.problem(key, "These problems have no test cases.", CODE_PROMPTS, CODE_PROMPTS)


@rule
def rewards_know_the_form_of_the_traces(view: View) -> Iterator[Problem]:
    """A model that was taught R1's own form never writes `<answer>`: the reward is 0 for every completion,
    or the other way round with the stories (open-r1 issues 235, 256, 489, 560).
    """
    if view["grpo.model_name_or_path"] != "02_sft":
        return
    if view["data.source"] == "stories":
        wrong, form, right = ("think_format",), "<think>...</think><answer>...</answer>", "format"
    elif all(source["dataset"] in THINK_ONLY for source in view["data.traces_from"]):
        wrong, form, right = ANSWER_TAGS, r"<think>...</think>, then the solution with \boxed", "think_format"
    else:
        return
    names = {reward["name"] for reward in view["grpo.rewards"]}
    if "think_format" in names and names & set(ANSWER_TAGS):
        return  # one_form_is_rewarded speaks of it
    for key, reward in entries(view, "grpo.rewards"):
        if reward["name"] in wrong:
            message = f"The traces of data.yaml teach {form}; this reward would always be 0 or nearly so."
            yield view.problem(f"{key}.name", message, right, right)


@advice
def the_form_is_taught_or_told(view: View) -> Iterator[Problem]:
    """A base model that nobody told about tags finds them by chance or not at all."""
    if view["data.source"] == "stories" or view["grpo.model_name_or_path"] == "02_sft":
        return
    for key, reward in entries(view, "grpo.rewards"):
        if reward["name"] in ANSWER_TAGS:
            message = "No trace taught this model the tags and no prompt names them."
            allowed = "think_format, or grpo.model_name_or_path: 02_sft"
            yield view.problem(f"{key}.name", message, allowed, "think_format")


def dropped_tokens(view: View) -> float:
    """Return the share of the traces' tokens that `max_length` cuts off; raise NotKnown without data."""
    if view["data.source"] == "hub":
        view["data.traces_from"]  # raises NotKnown if an entry is wrong
        if view["data.excerpt"]:
            raise NotKnown("data.excerpt")  # the lengths are known for whole datasets only
    elif not view.given("data.traces"):
        raise NotKnown("data.traces")
    packing = view["sft.packing"]
    if packing and view["sft.packing_strategy"] in ("wrapped", "bfd_split"):
        raise NotKnown("sft.packing_strategy")
    lengths, row = trace_lengths(view.values["data"]), view["sft.max_length"]
    if lengths is None or row is None:
        raise NotKnown("sft.max_length")
    return lengths.dropped(row)


@rule
def truncation_leaves_the_answers(view: View) -> Iterator[Problem]:
    """A trace cut before its answer teaches to think without end. TRL cuts silently, and its packing (bfd)
    drops what it cuts.
    """
    if (share := dropped_tokens(view)) > 0.2:
        message = f"About {share:.0%} of the traces' tokens lie past max_length and are dropped."
        yield view.problem("sft.max_length", message, "a length that holds nearly all traces, such as 32768")


@advice
def truncation_is_rare(view: View) -> Iterator[Problem]:
    """The longest traces are the hardest problems."""
    if 0.05 < (share := dropped_tokens(view)) <= 0.2:
        message = f"About {share:.0%} of the traces' tokens lie past max_length and are dropped."
        yield view.problem("sft.max_length", message, "a larger max_length")


@advice
def benchmarks_are_sampled_enough(view: View) -> Iterator[Problem]:
    """AIME has 30 problems: one sample of each has a standard error of 6 to 9 points."""
    for name in ("aime24", "aime25"):
        samples = view["evaluation.benchmarks"].get(name)
        if isinstance(samples, int) and samples < 16:
            message = (
                f"{samples} sample{'s' if samples != 1 else ''} of 30 problems cannot tell models apart."
            )
            yield view.problem(f"evaluation.benchmarks.{name}", message, "64, as open-r1's tables")


@rule
def base_model_starts_from_nothing(view: View) -> Iterator[Problem]:
    """The given model would be ignored: base.yaml makes one from random weights."""
    if view.given("base.model_name_or_path"):
        message = "base.yaml makes a model from random weights; to start from a given one, remove base.yaml."
        yield view.problem("base.model_name_or_path", message, "no such key")


@rule
def trained_models_exist_before(view: View) -> Iterator[Problem]:
    """The stage would fail when it loads its model, minutes after the start."""
    for section in ("sft", "grpo"):
        key = f"{section}.model_name_or_path"
        if not view.has(section) or ("model_name_or_path",) in view.wrong[section]:
            continue
        stage = STAGE_OF_SECTION[section]
        earlier = [name for name in MODEL_STAGES if name < stage]
        allowed = f"{' or '.join(earlier)}, the path of a model folder, or a hub id such as Qwen/Qwen2.5-0.5B"
        model = view[key]
        if not model:
            yield view.problem(key, "The key is missing: which model is trained?", allowed, earlier[-1])
        elif model in STAGES and model not in MODEL_STAGES:
            yield view.problem(
                key, f"The stage {model} makes no model.", allowed, nearest_name(model, earlier)
            )
        elif model in STAGES and model not in earlier:
            message = f"{section}.yaml is the stage {stage}; {model} is not before it."
            yield view.problem(key, message, allowed, earlier[-1])
        elif model == "01_data" and "base" not in view.values and "base" not in view.sources:
            yield view.problem(key, "01_data makes a base model only if the profile has base.yaml.", allowed)
        elif model not in STAGES and (message := _unreachable(model, view)):
            yield view.problem(key, message, allowed, nearest_name(model, earlier))


def _unreachable(model: str, view: View) -> str:
    """Return why a path or hub id cannot be loaded, or ""; does not use the network."""
    path = Path(model).expanduser()
    if path.is_dir():
        return "" if (path / "config.json").is_file() else "The folder holds no config.json: it is no model."
    if model.startswith((".", "/", "~")) or path.exists():
        return "There is no such folder."
    if nearest_name(model, STAGES, 0.7) or model[:1].isdigit():
        return "There is no such stage."
    try:
        environment = view["machine.environment"] or {}
    except NotKnown:
        environment = {}
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cached = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{model.replace('/', '--')}"
    if environment.get("HF_HUB_OFFLINE") in ("1", "true", 1) and not cached.is_dir():
        return f"The model is not in {cached.parent}, and machine.yaml forbids the network (HF_HUB_OFFLINE)."
    return ""


@rule
def heads_divide_the_hidden_size(view: View) -> Iterator[Problem]:
    """Each head takes an equal, even share of the hidden size (rotary embeddings turn pairs)."""
    hidden, heads = view["base.architecture.hidden_size"], view["base.architecture.num_attention_heads"]
    if hidden % heads or (hidden // heads) % 2:
        allowed = f"a multiple of {2 * heads} = 2 x {heads} num_attention_heads"
        yield view.problem(
            "base.architecture.hidden_size", "The heads' shares are not equal and even.", allowed
        )


@rule
def key_heads_divide_the_heads(view: View) -> Iterator[Problem]:
    """Grouped-query attention shares each key head among equally many query heads."""
    heads = view["base.architecture.num_attention_heads"]
    if heads % view["base.architecture.num_key_value_heads"]:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        message = "Query heads cannot be shared out equally."
        yield view.problem("base.architecture.num_key_value_heads", message, f"one of {divisors}")


@rule
def training_rows_fit_the_context(view: View) -> Iterator[Problem]:
    """Positions past the context were never trained; with rotary embeddings nothing would even fail."""
    for section in ("base", "sft"):
        if not view.has(section):
            continue
        try:
            length, (context, why) = view[f"{section}.max_length"], view.context(section)
        except NotKnown:
            continue
        if length is not None and length > context:
            yield view.problem(
                f"{section}.max_length",
                "A row is longer than the model's context.",
                f"at most {context}, {why}",
            )


@rule
def completions_fit_the_context(view: View) -> Iterator[Problem]:
    """Generation would run past the context: prompt and completion share it."""
    prompt = view["data.max_prompt_length"]
    context, why = view.context("grpo")
    for key in ("grpo.max_completion_length", "evaluation.max_new_tokens"):
        if not view.has(key.split(".")[0]):
            continue
        try:
            length = view[key]
        except NotKnown:
            continue
        if length is not None and prompt + length > context:
            message = (
                f"A prompt of {prompt} tokens (max_prompt_length of data.yaml) and the completion make "
                f"{prompt + length}."
            )
            allowed = f"at most {context - prompt}: the context is {context}, {why}"
            yield view.problem(key, message, allowed)


@rule
def model_keys_have_an_effect(view: View) -> Iterator[Problem]:
    """LoRA settings without use_peft train all weights, silently."""
    for section in view.trainers:
        if view[f"{section}.use_peft"]:
            continue
        for key in view.values[section]:
            if isinstance(key, str) and key.startswith("lora_") and view.given(f"{section}.{key}"):
                yield view.problem(
                    f"{section}.{key}", "LoRA is off: write use_peft: true, or remove the key."
                )


@rule
def one_quantization_at_most(view: View) -> Iterator[Problem]:
    """ModelConfig refuses both."""
    for section in ("sft", "grpo"):
        if view.has(section) and view[f"{section}.load_in_8bit"] and view[f"{section}.load_in_4bit"]:
            yield view.problem(
                f"{section}.load_in_4bit", "load_in_8bit and load_in_4bit are both on.", "one of the two"
            )


ROLES = {
    "model": ("model", MODEL_KINDS, "trains no model"),
    "models": ("model", MODEL_KINDS, "trains no model"),
    "data": ("data", DATA_KINDS, "makes no dataset of traces"),
    "prompts": ("prompts", PROMPT_KINDS, "chooses no prompts"),
}
NOUNS = {"model": "model", "data": "dataset of traces", "prompts": "dataset of prompts"}


def stages_of(view: View) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Yield (key, stage, all stages of its pipeline); raise NotKnown if pipeline.yaml itself is wrong."""
    if not view.has("pipeline") or view.wrong["pipeline"]:
        raise NotKnown("pipeline")
    for name, pipeline in view.values["pipeline"]["pipelines"].items():
        for key, stage in entries(view, f"pipeline.pipelines.{name}.stages"):
            yield key, stage, pipeline["stages"]


def before(stage: dict[str, Any], stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the stages before this one."""
    return stages[: next(i for i, other in enumerate(stages) if other is stage)]


@rule
def composed_stages_have_names_of_their_own(view: View) -> Iterator[Problem]:
    """Two stages would write into one folder, or a name would mean two things."""
    for key, stage, stages in stages_of(view):
        if stage["name"] in RESERVED:
            allowed = f"none of {', '.join(RESERVED)}"
            yield view.problem(f"{key}.name", "The name means something else.", allowed)
        if stage["name"] in [other["name"] for other in before(stage, stages)]:
            yield view.problem(f"{key}.name", "An earlier stage has this name.", "a new name")


@rule
def composed_stages_find_their_inputs_before_them(view: View) -> Iterator[Problem]:
    """A stage would have no input, or an input of the wrong kind."""
    for key, stage, stages in stages_of(view):
        earlier = {other["name"]: other["kind"] for other in before(stage, stages)}
        for place, role, source in _sources(stage):
            output, kinds, fault = ROLES[role]
            allowed = [name for name, kind in GIVEN.items() if kind == output]
            allowed += [name for name, kind in earlier.items() if kind in kinds]
            if source in allowed:
                continue
            message = "There is no such stage."
            if source == stage["name"]:
                message = "A stage cannot depend on itself."
            elif source in earlier:
                message = f"The stage {source} ({earlier[source]}) {fault}."
            elif source in [other["name"] for other in stages]:
                message = f"{source} comes later; a stage may depend only on earlier stages."
            elif source in GIVEN:
                message = f"{source} is not a {NOUNS[output]}."
            nearest = nearest_name(source, allowed)
            yield view.problem(f"{key}.{place}", message, ", ".join(allowed), nearest)


@rule
def composed_stages_set_what_they_read(view: View) -> Iterator[Problem]:
    """The change would have no effect: a stage reads one file, and the data were made before it."""
    for key, stage, _ in stages_of(view):
        files = MAY_SET[stage["kind"]]
        for changed in stage.get("set", {}):
            if changed.partition(".")[0] in files:
                continue
            message = f"A stage of kind {stage['kind']} does not read it."
            if changed.startswith(("data.", "base.")):
                pipeline = key.split(".")[2]
                message = f"Data and base are made before all stages: move it to {pipeline}'s own `set`."
            allowed = ", ".join(f"{file}.…" for file in files) or "nothing"
            place = f"{key.removeprefix('pipeline.')}.set"
            yield Problem(view.sources["pipeline"].file, place, changed, allowed, "", message)


@rule
def a_checkpoint_is_evaluated_once(view: View) -> Iterator[Problem]:
    """A duplicate name would be evaluated twice for one row of the table."""
    for key, stage, _ in stages_of(view):
        for role in ("models", "data"):
            names = stage.get(role)
            if isinstance(names, list) and len(set(names)) < len(names):
                yield view.problem(f"{key}.{role}", "A name is written twice.", "each once")


@rule
def sampled_answers_fit_the_context(view: View) -> Iterator[Problem]:
    """vLLM would refuse to start, after days of training."""
    (context, why), prompt = view.context("sft"), view["data.max_prompt_length"]
    for key, stage, _ in stages_of(view):
        place, room, longest = f"{key}.max_new_tokens", prompt, stage.get("max_new_tokens", 0)
        evaluates = stage["kind"] == "evaluate"
        if evaluates and view.given("evaluation.benchmarks"):
            changed = stage.get("set", {}).get("evaluation.max_new_tokens")
            longest, room = changed or view["evaluation.max_new_tokens"], PROMPT_ROOM
            place = f"{key}.set"
        if longest + room > context:
            message = f"With its prompt an answer takes {longest + room} tokens; {context}: {why}."
            most = context - room
            allowed = f"evaluation.max_new_tokens: {most} or less" if evaluates else f"at most {most}"
            yield view.problem(place, message, allowed, found=str(longest))


@advice
def composed_stages_are_used(view: View) -> Iterator[Problem]:
    """The stage takes time, but no stage trains on its output or evaluates it."""
    for key, stage, stages in stages_of(view):
        used = {source for other in stages for _, _, source in _sources(other)}
        if stage["name"] not in used and stage["kind"] != "evaluate" and stage is not stages[-1]:
            yield view.problem(f"{key}.name", "No stage uses its output.", "a later stage that names it")


def _sources(stage: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, role, source) for each input of a stage as the file has it."""
    defaults = {"model": "base", "data": "traces"} if stage["kind"] == "sft" else {}
    reads_prompts = stage["kind"] in ("grpo", "rejection_sampling", "pass_rate")
    for role in ("model", "data", "models"):
        value = stage.get(role, defaults.get(role))
        if isinstance(value, list):
            yield from ((f"{role}.{i}", role, source) for i, source in enumerate(value))
        elif value is not None:
            yield role, "prompts" if role == "data" and reads_prompts else role, value


@rule
def a_band_of_pass_rates_is_not_empty(view: View) -> Iterator[Problem]:
    """No prompt could be kept."""
    for key, stage, _ in stages_of(view):
        lowest, highest = stage.get("lowest", 0.1), stage.get("highest", 0.6)
        if stage["kind"] == "pass_rate" and lowest > highest:
            place = f"{key}.{'lowest' if 'lowest' in stage else 'highest'}"
            yield view.problem(place, f"The band goes from {lowest} to {highest}.", "lowest <= highest")
