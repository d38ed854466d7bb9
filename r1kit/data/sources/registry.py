"""The datasets that a profile may name: their columns, their rows, and which function reads a row.

Columns are those of the dataset cards. Row counts are given where a card, or a repository that pins the
dataset, states them; elsewhere they are not checked. `revision` is the commit that is taken unless a profile
names another (`revision:`). Commits were read in public repositories that pin these datasets, and where the
hub's listing of a dataset was to be had, it begins with the same digits (2026-11-24).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from r1kit.data.sources import rows
from r1kit.data.sources.schema import TURNS
from r1kit.settings.hub_data import HubPrompts, HubTraces

Entry = HubTraces | HubPrompts
Reader = Callable[[Mapping[str, Any]], Iterable[rows.Read]]

_PROBLEM = {
    "id": "string", "aliases": "list<string>", "contest_id": "string", "contest_name": "string",
    "contest_type": "string", "contest_start": "int64", "contest_start_year": "int64", "index": "string",
    "time_limit": "float64", "memory_limit": "float64", "title": "string", "description": "string",
    "input_format": "string", "output_format": "string", "interaction_format": "string", "note": "string",
    "examples": "list<{input: string, output: string}>", "editorial": "string",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A dataset: `columns` -> type, `counts` "config/split" -> rows, and the columns that are read."""

    name: str
    columns: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=dict)
    revision: str | None = None
    traces: tuple[str, ...] = ()
    """Columns that are read for SFT; () where it holds no traces."""
    prompts: tuple[str, ...] = ()
    """Columns that are read for GRPO beside the prompt's and the solution's; both empty: no prompts."""
    prompt: str = "problem"
    solution: str = ""
    pass_rate: str = ""
    """The dataset's own column of pass rates."""


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "open-r1/Mixture-of-Thoughts",
            {"messages": TURNS, "num_tokens": "int64", "source": "string"},
            {"all/train": 349_317, "math/train": 93_733, "code/train": 83_070, "science/train": 172_514},
            revision="e55fa28006c0d0ec60fb3547520f775dd42d02cd",
            traces=("messages",),
        ),
        Source(
            "open-r1/OpenR1-Math-220k",
            {
                "problem": "string", "solution": "string", "answer": "string", "problem_type": "string",
                "question_type": "string", "source": "string", "uuid": "string",
                "is_reasoning_complete": "list<bool>", "generations": "list<string>",
                "correctness_math_verify": "list<bool>", "correctness_llama": "list<bool>",
                "finish_reasons": "list<string>", "correctness_count": "int64", "messages": TURNS,
            },
            {"default/train": 93_733, "all/train": 225_129, "extended/train": 131_396},
            revision="e4e141ec9dea9f8326f4d347be56105859b2bd68",
            traces=("problem", "answer", "generations", "is_reasoning_complete",
                    "correctness_math_verify", "correctness_llama"),
            solution="answer",
        ),
        Source(
            "open-r1/codeforces",
            {
                **_PROBLEM, "rating": "int64", "tags": "list<string>", "testset_size": "int64",
                "official_tests": "list<{input: string, output: string}>", "official_tests_complete": "bool",
                "input_mode": "string", "generated_checker": "string", "executable": "bool",
                "generated_tests": "int64", "language": "string", "prompt": "string",
            },
            {"verifiable-prompts/train": 16_676, "verifiable-prompts/test": 844},
            revision="fbe3f6e903ee854eec2e69e9d96d0306cde59baf",
            prompts=("official_tests", "examples", "input_mode", "generated_checker", "interaction_format",
                     "language"),
            prompt="prompt",
        ),
        Source(
            "open-r1/codeforces-cots",
            {
                **_PROBLEM, "prompt": "string", "generation": "string", "finish_reason": "string",
                "api_metadata": "{completion_tokens: int64, prompt_tokens: int64, total_tokens: int64}",
                "messages": TURNS,
            },
            {
                "solutions_py_decontaminated/train": 8_133,
                "solutions_w_editorials_py_decontaminated/train": 9_796,
            },
            revision="39ac85c150806230473c70ad72c31f6232fe3f41",
            traces=("messages", "finish_reason"),
        ),
        Source(
            "AI-MO/NuminaMath-CoT",
            {"source": "string", "problem": "string", "solution": "string", "messages": TURNS},
            {"default/train": 859_494, "default/test": 100},
            revision="9d8d210c9f6a36c8f3cd84045668c9b7800ef517",
            solution="solution",
        ),
        Source(
            "open-r1/DAPO-Math-17k-Processed",
            {
                "prompt": "string", "solution": "string", "data_source": "string", "source_prompt": TURNS,
                "ability": "string", "reward_model": "{ground_truth: string, style: string}",
                "extra_info": "{index: string}",
            },
            {"all/train": 17_398, "en/train": 14_116, "cn/train": 3_282},
            revision="31dd309567e3da778038cc87d868b6097a3ccf68",
            prompt="prompt",
            solution="solution",
        ),
        Source(
            "open-r1/Big-Math-RL-Verified-Processed",
            {"prompt": "string", "solution": "string", "source": "string", "domain": "list<string>",
             "llama8b_solve_rate": "float64"},
            revision="c79efbb6d3b75e3a2bcc27a5c569119918132345",
            prompt="prompt",
            solution="solution",
            pass_rate="llama8b_solve_rate",
        ),
    )
}  # fmt: skip


def source_of(entry: Entry) -> Source:
    """What is known of an entry's dataset; a local path has the columns of our own files."""
    if entry.dataset in SOURCES:
        return SOURCES[entry.dataset]
    if isinstance(entry, HubTraces):
        return Source(entry.dataset, {"messages": TURNS}, traces=("messages",))
    return Source(entry.dataset, {}, solution="solution", pass_rate="pass_rate")


def columns_read(entry: Entry, columns: Iterable[str] = ()) -> list[str]:
    """The columns of its dataset that an entry needs.

    Args:
        columns: those that are there: a local file's problem may stand in `prompt`, and a solution may be
            missing where there are test cases.
    """
    source, there = source_of(entry), list(columns)
    if isinstance(entry, HubTraces):
        return list(source.traces)
    wanted = [entry.prompt_column or _prompt_column(source, there)]
    solution = entry.solution_column or source.solution
    tests_instead = source.name not in SOURCES and "verification_info" in there and solution not in there
    if solution and not tests_instead:
        wanted.append(solution)
    return [*wanted, *source.prompts]


def reader_of(entry: Entry, columns: Iterable[str] = ()) -> Reader:
    """The function that reads a row of this entry (`rows.Read`s, one for each trace or prompt in it)."""
    source = source_of(entry)
    if isinstance(entry, HubTraces):
        if source.name == "open-r1/OpenR1-Math-220k":
            return partial(rows.generations, most=entry.per_problem)
        return rows.trace if source.name in SOURCES else rows.local_trace
    needed = columns_read(entry, columns)
    if source.name == "open-r1/codeforces":
        return partial(rows.program, prompt=needed[0], instruction=entry.instruction)
    solution = needed[1] if len(needed) > 1 else ""
    prose = source.name == "AI-MO/NuminaMath-CoT" and solution == "solution"
    told = entry.instruction
    return partial(rows.problem, prompt=needed[0], solution=solution, prose=prose, instruction=told)


def _prompt_column(source: Source, there: list[str]) -> str:
    local = source.name not in SOURCES
    return "prompt" if local and "problem" not in there and "prompt" in there else source.prompt
