"""Rules about real data: columns, benchmarks, and the form that the traces teach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from r1kit.settings.checks import advice, rule
from r1kit.settings.errors import Problem, nearest_name
from r1kit.settings.hub_data import PromptDataset, TraceDataset
from r1kit.settings.trace_lengths import trace_lengths
from r1kit.settings.view import NotKnown, View

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
    for position, source in enumerate(view["data.prompts_from"]):
        column = source.get("solution_column")
        if source["dataset"] == "open-r1/OpenR1-Math-220k" and column == "solution":
            key = f"data.prompts_from.{position}.solution_column"
            message = "The column `solution` of OpenR1-Math-220k is prose; golds would be wrong numbers."
            yield view.problem(key, message, "answer", "answer")


@rule
def pass_rate_is_a_band(view: View) -> Iterator[Problem]:
    """No prompt would be left."""
    for position, source in enumerate(view["data.prompts_from"]):
        band = source.get("pass_rate")
        if band and not 0 <= band[0] < band[1] <= 1:
            key = f"data.prompts_from.{position}.pass_rate"
            yield view.problem(key, "No prompt has such a pass rate.", "[least, most] between 0 and 1")


@rule
def a_known_part_of_the_dataset(view: View) -> Iterator[Problem]:
    """The hub would refuse the name after the model was downloaded."""
    for entries in ("traces_from", "prompts_from"):
        for position, source in enumerate(view[f"data.{entries}"]):
            parts, part = CONFIGS.get(source["dataset"]), source.get("config", "default")
            if parts and part not in parts:
                key = f"data.{entries}.{position}.config"
                message = f"{source['dataset'].split('/')[1]} has no such part with what is read here."
                nearest = nearest_name(part, parts) or parts[0]
                yield view.problem(key, message, ", ".join(parts), nearest, found=str(part))


@rule
def pass_rates_belong_to_a_band(view: View) -> Iterator[Problem]:
    """The rates would be read and used for nothing."""
    for position, source in enumerate(view["data.prompts_from"]):
        if source.get("pass_rates") and not source.get("pass_rate"):
            key = f"data.prompts_from.{position}.pass_rates"
            yield view.problem(key, "No band says which prompts to keep.", "with pass_rate: [0.1, 0.6]")


@rule
def rewards_can_judge_the_prompts(view: View) -> Iterator[Problem]:
    """A reward that cannot judge a row leaves it out of the training; with all rows left out it stops."""
    names = {reward["name"] for reward in view["grpo.rewards"]}
    judges = names & {"code", "binary_code"}
    for position, source in enumerate(view["data.prompts_from"]):
        code, key = source["dataset"] == CODE_PROMPTS, f"data.prompts_from.{position}.dataset"
        if source["dataset"] not in get_args(PromptDataset):
            continue  # a file of one's own may hold either
        if code and "accuracy" in names:
            message = "A program is no answer that the reward accuracy could read."
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
    for position, reward in enumerate(view["grpo.rewards"]):
        if reward["name"] in wrong:
            message = f"The traces of data.yaml teach {form}; this reward would always be 0 or nearly so."
            yield view.problem(f"grpo.rewards.{position}.name", message, right, right)


@advice
def the_form_is_taught_or_told(view: View) -> Iterator[Problem]:
    """A base model that nobody told about tags finds them by chance or not at all."""
    if view["data.source"] == "stories" or view["grpo.model_name_or_path"] == "02_sft":
        return
    for position, reward in enumerate(view["grpo.rewards"]):
        if reward["name"] in ANSWER_TAGS:
            message = "No trace taught this model the tags and no prompt names them."
            allowed = "think_format, or grpo.model_name_or_path: 02_sft"
            yield view.problem(f"grpo.rewards.{position}.name", message, allowed, "think_format")


def dropped_tokens(view: View) -> float:
    """Share of the traces' tokens that `max_length` cuts away; NotKnown where no token is."""
    if view["data.source"] == "hub":
        view["data.traces_from"]  # NotKnown where an entry is wrong
        if view["data.excerpt"]:
            raise NotKnown("data.excerpt")  # what is known of the whole says nothing of its parts
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
