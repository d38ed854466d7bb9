"""Rules across settings: what each file allows alone, but trainer, model or lesson do not allow together.

Each rule is a small function that takes a View and yields Problems; its docstring says what goes wrong
without it. No stage starts while a rule is violated; advice is printed and stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from r1kit.settings.errors import Problem
from r1kit.settings.view import NotKnown, View

Rule = Callable[[View], Iterator[Problem]]
Severity = Literal["error", "warning"]
RULES: dict[str, tuple[Rule, Severity]] = {}


def rule(function: Rule) -> Rule:
    """Register a rule: what violates it cannot work, or silently does something else."""
    RULES[function.__name__] = (function, "error")
    return function


def advice(function: Rule) -> Rule:
    """Register a rule whose violation runs, but is likely not what anybody wants: a warning."""
    RULES[function.__name__] = (function, "warning")
    return function


def check(view: View) -> list[Problem]:
    """All problems of all rules. A rule that needs a value which is missing or wrong is silent."""
    from r1kit.settings import (  # noqa: F401 - they register rules
        checks_cluster,
        checks_curriculum,
        checks_data,
        checks_environment,
        checks_model,
        checks_pipelines,
        checks_recipe,
        checks_rewards,
        checks_sampling,
        checks_scale,
        checks_server,
        checks_sharding,
        checks_trainer,
    )

    problems = []
    for name, (function, severity) in RULES.items():
        try:
            for problem in function(view):
                problems.append(replace(problem, rule=name, severity=severity))
        except NotKnown:
            continue
    return problems


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


@rule
def collapse_is_steeper(view: View) -> Iterator[Problem]:
    """The lesson shows a collapse; with a smaller learning rate there is none to see."""
    rate = view["grpo.learning_rate"]
    if view["grpo.collapse.learning_rate"] <= rate:
        allowed = f"more than {rate}, learning_rate of grpo.yaml"
        message = "The run that fails on purpose needs a larger learning rate than the real one."
        yield view.problem("grpo.collapse.learning_rate", message, allowed)


@rule
def processes_agree_with_their_kind(view: View) -> Iterator[Problem]:
    """accelerate would start one process and the batch arithmetic would be for several."""
    processes = view["accelerate.num_processes"]
    if view["accelerate.distributed_type"] == "NO" and processes != 1:
        message = 'distributed_type "NO" means one process; several need MULTI_GPU, DEEPSPEED or FSDP.'
        yield view.problem("accelerate.num_processes", message, "1")


@rule
def accelerate_uses_the_device(view: View) -> Iterator[Problem]:
    """accelerate would put the model on another device than the profile says."""
    device, use_cpu = view["machine.device"], view["accelerate.use_cpu"]
    if device == "cpu" and not use_cpu:
        yield view.problem("accelerate.use_cpu", "machine.yaml says device: cpu.", "true")
    if device == "cuda" and use_cpu:
        yield view.problem("accelerate.use_cpu", "machine.yaml says device: cuda.", "false")


@rule
def accelerate_precision_suits_a_cpu(view: View) -> Iterator[Problem]:
    """bf16 matrix products on a CPU without bf16 units are 50 to 500 times slower than float32."""
    if view["machine.device"] == "cpu" and view["accelerate.mixed_precision"] != "no":
        message = "machine.yaml says device: cpu, where only float32 is fast."
        yield view.problem("accelerate.mixed_precision", message, 'no (in quotes: "no")')


@rule
def threads_are_a_number(view: View) -> Iterator[Problem]:
    """OpenMP ignores a thread count it cannot read and takes all cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        key = f"machine.environment.{name}"
        if view.given(key) and not (str(view[key]).isdigit() and int(view[key]) > 0):
            yield view.problem(key, "The thread count would be ignored.", "a whole number, 1 or more")
