"""Rules about pipeline.yaml: stages that find their inputs before them, and say only what is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r1kit.settings.benchmarks import PROMPT_ROOM
from r1kit.settings.checks import advice, rule
from r1kit.settings.errors import Problem, nearest_name
from r1kit.settings.pipelines import DATA_KINDS, GIVEN, MAY_SET, MODEL_KINDS, PROMPT_KINDS, RESERVED
from r1kit.settings.view import NotKnown, View

ROLES = {
    "model": ("model", MODEL_KINDS, "trains no model"),
    "models": ("model", MODEL_KINDS, "trains no model"),
    "data": ("data", DATA_KINDS, "makes no dataset of traces"),
    "prompts": ("prompts", PROMPT_KINDS, "chooses no prompts"),
}
NOUNS = {"model": "model", "data": "dataset of traces", "prompts": "dataset of prompts"}


def stages_of(view: View) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(name, its key, stages) of every pipeline; NotKnown where the file is not valid by itself."""
    if not view.has("pipeline") or view.wrong["pipeline"]:
        raise NotKnown("pipeline")
    for name, pipeline in view.values["pipeline"]["pipelines"].items():
        yield name, f"pipeline.pipelines.{name}", pipeline["stages"]


@rule
def composed_stages_have_names_of_their_own(view: View) -> Iterator[Problem]:
    """Two stages would write into one folder, or a name would mean two things."""
    for _, key, stages in stages_of(view):
        seen: set[str] = set()
        for i, stage in enumerate(stages):
            if stage["name"] in RESERVED:
                allowed = f"none of {', '.join(RESERVED)}"
                yield view.problem(f"{key}.stages.{i}.name", "The name means something else.", allowed)
            if stage["name"] in seen:
                yield view.problem(f"{key}.stages.{i}.name", "A stage before has this name.", "a new name")
            seen.add(stage["name"])


@rule
def composed_stages_find_their_inputs_before_them(view: View) -> Iterator[Problem]:
    """A stage would wait for what never comes, or train on something that is no model or no data."""
    for _, key, stages in stages_of(view):
        kinds = {stage["name"]: stage["kind"] for stage in stages}
        for i, stage in enumerate(stages):
            before = {other["name"]: other["kind"] for other in stages[:i]}
            for where, role, source in _sources(stage):
                given, wanted, lacks = ROLES[role]
                allowed = [name for name, kind in GIVEN.items() if kind == given]
                allowed += [name for name, kind in before.items() if kind in wanted]
                if source in allowed:
                    continue
                message = "There is no such stage."
                if source == stage["name"]:
                    message = "A stage cannot stand on itself."
                elif source in before:
                    message = f"The stage {source} ({before[source]}) {lacks}."
                elif source in kinds:
                    message = f"{source} comes later; a stage stands on stages before it."
                elif source in GIVEN:
                    message = f"{source} is no {NOUNS[given]}."
                nearest = nearest_name(source, allowed)
                place = f"{key}.stages.{i}.{where}"
                yield view.problem(place, message, ", ".join(allowed), nearest)


@rule
def composed_stages_set_what_they_read(view: View) -> Iterator[Problem]:
    """The change would have no effect: a stage reads one file, and the data were made before it."""
    for name, key, stages in stages_of(view):
        for i, stage in enumerate(stages):
            allowed = MAY_SET[stage["kind"]]
            for changed in stage.get("set", {}):
                if changed.partition(".")[0] in allowed:
                    continue
                message = f"A stage of kind {stage['kind']} does not read it."
                if changed.startswith(("data.", "base.")):
                    message = (
                        f"Data and base are made once, before the stages: it belongs in {name}'s own `set`."
                    )
                words = ", ".join(f"{file}.…" for file in allowed) or "nothing"
                yield Problem(
                    view.sources["pipeline"].file, f"{key[9:]}.stages.{i}.set", changed, words, "", message
                )


@rule
def a_checkpoint_is_evaluated_once(view: View) -> Iterator[Problem]:
    """A name written twice would be one row of the table, asked twice."""
    for _, key, stages in stages_of(view):
        for i, stage in enumerate(stages):
            for role in ("models", "data"):
                names = stage.get(role)
                if isinstance(names, list) and len(set(names)) < len(names):
                    yield view.problem(f"{key}.stages.{i}.{role}", "A name is written twice.", "each once")


@rule
def sampled_answers_fit_the_context(view: View) -> Iterator[Problem]:
    """vLLM would refuse to start, after days of training."""
    (context, why), prompt = view.context("sft"), view["data.max_prompt_length"]
    for _, key, stages in stages_of(view):
        for i, stage in enumerate(stages):
            place, room = f"{key}.stages.{i}.max_new_tokens", prompt
            longest = stage.get("max_new_tokens", 0)
            if stage["kind"] == "evaluate" and view.given("evaluation.benchmarks"):
                own = stage.get("set", {}).get("evaluation.max_new_tokens")
                longest, room = own or view["evaluation.max_new_tokens"], PROMPT_ROOM
                place = f"{key}.stages.{i}.set"
            if longest + room > context:
                message = f"With its prompt an answer takes {longest + room} tokens; {context}: {why}."
                allowed = f"at most {context - room}"
                if stage["kind"] == "evaluate":
                    allowed = f"evaluation.max_new_tokens: {context - room} or less"
                yield view.problem(place, message, allowed, found=str(longest))


@advice
def composed_stages_are_used(view: View) -> Iterator[Problem]:
    """Time is spent on something that nothing trains on and nobody asks."""
    for _, key, stages in stages_of(view):
        used = {source for stage in stages for _, _, source in _sources(stage)}
        for i, stage in enumerate(stages[:-1]):
            if stage["name"] not in used and stage["kind"] != "evaluate":
                message = "No stage uses what this one makes."
                yield view.problem(f"{key}.stages.{i}.name", message, "a stage after it that names it")


def _sources(stage: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, role, source) of every input of a stage as the file has it."""
    defaults = {"model": "base", "data": "traces"} if stage["kind"] == "sft" else {}
    asks = stage["kind"] in ("grpo", "rejection_sampling", "pass_rate")
    for role in ("model", "data", "models"):
        value = stage.get(role, defaults.get(role))
        if isinstance(value, list):
            yield from ((f"{role}.{i}", role, source) for i, source in enumerate(value))
        elif value is not None:
            yield role, "prompts" if role == "data" and asks else role, value


@rule
def a_band_of_pass_rates_is_not_empty(view: View) -> Iterator[Problem]:
    """No prompt could be kept."""
    for _, key, stages in stages_of(view):
        for i, stage in enumerate(stages):
            lowest, highest = stage.get("lowest", 0.1), stage.get("highest", 0.6)
            if stage["kind"] == "pass_rate" and lowest > highest:
                place = f"{key}.stages.{i}.{'lowest' if 'lowest' in stage else 'highest'}"
                yield view.problem(place, f"The band goes from {lowest} to {highest}.", "lowest <= highest")
