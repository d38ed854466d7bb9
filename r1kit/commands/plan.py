"""`r1kit plan`: memory, hours and disk before anything starts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption

if TYPE_CHECKING:
    from r1kit.settings.lengths import Lengths


def plan(
    profile: Annotated[
        str, typer.Option(help="A folder of configs/, by name or path. [default: cpu-tiny, or the run's own]")
    ] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: sft.max_length=16384")] = None,
    pipeline: Annotated[
        str, typer.Option(help="A pipeline of the profile, such as r1: the price of each of its stages.")
    ] = "",
    against: Annotated[str, typer.Option(help="A run: print what was predicted beside what it did.")] = "",
    lengths: Annotated[
        str, typer.Option(help="A JSON file with the traces' lengths: [[tokens, documents], ...]")
    ] = "",
    gflops: Annotated[float, typer.Option(help="A CPU's matrix speed, in place of the profile's.")] = 0.0,
    here: Annotated[
        bool, typer.Option("--here", help="Measure this CPU now, in a second, and plan for it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Memory, hours and disk of a profile before anything starts: what fits, and what to change."""
    from dataclasses import asdict

    from r1kit.machine.plan import make_plan, plan_pipeline
    from r1kit.machine.speed import measure_gflops
    from r1kit.settings import load_profile, parse_overrides
    from r1kit.settings.lengths import read_lengths
    from r1kit.views.plan import render, render_pipeline

    changes, histogram = parse_overrides(set_ or []), read_lengths(lengths) if lengths else None
    if against:
        _compare(against, profile, changes, histogram, gflops, as_json)
        return
    source = profile or DEFAULT_PROFILE
    settings = load_profile(source, changes)
    if here and settings.machine.device == "cpu":
        gflops = measure_gflops()
    given = {"lengths": histogram, "gflops": gflops or None}
    if pipeline:
        priced = plan_pipeline(source, changes, pipeline, **given)
        content = asdict(priced) | {"hours": priced.hours, "disk": priced.disk}
        print(json.dumps(content, indent=1) if as_json else render_pipeline(priced))
        return
    made = make_plan(settings, **given)
    print(json.dumps(made.as_dict(), indent=1) if as_json else render(made))


def _compare(
    name: str,
    profile: str,
    changes: dict[str, Any],
    lengths: Lengths | None,
    gflops: float,
    as_json: bool,
) -> None:
    """Print the plan beside what a run measured, under the run's own profile and changes by default."""
    from r1kit.machine.plan import make_plan
    from r1kit.runs.folder import open_run
    from r1kit.settings import load_profile
    from r1kit.views.plan import compare, measured, render_comparison

    run = open_run(name)
    manifest = run.manifest
    own = profile in ("", manifest.get("profile"), manifest.get("profile_source"))
    source = manifest.get("profile_source", manifest["profile"]) if own else profile
    settings = load_profile(source, (manifest.get("overrides", {}) if own else {}) | changes)
    found = measured(run.path)
    speed = gflops or found.get("gflops")
    made = make_plan(settings, lengths=lengths, gflops=speed)
    rows = compare(made, found)
    content = {"profile": settings.name, "run": name, "rows": rows}
    print(json.dumps(content, indent=1) if as_json else render_comparison(made, name, rows, speed))
