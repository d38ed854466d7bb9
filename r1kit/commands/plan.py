"""`r1kit plan`: memory, hours and disk before anything starts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption


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
        bool, typer.Option("--here", help="Measure this CPU now, a second with torch, and plan for it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Memory, hours and disk of a profile before anything starts: what fits, and what to change."""
    from dataclasses import asdict

    from r1kit.machine.layer_speed import measure_layer
    from r1kit.machine.plan import make_plan
    from r1kit.machine.plan.composed import plan_pipeline
    from r1kit.settings import load_profile, parse_overrides
    from r1kit.settings.lengths import read_lengths
    from r1kit.views.plan import render, render_pipeline
    from r1kit.views.plan_against import compare, measured, render_comparison

    changes, histogram = parse_overrides(set_ or []), read_lengths(lengths) if lengths else None
    if against:
        from r1kit.runs.folder import open_run

        run = open_run(against)
        own = profile in ("", run.manifest.get("profile"), run.manifest.get("profile_source"))
        source = run.manifest.get("profile_source", run.manifest["profile"]) if own else profile
        settings = load_profile(source, (run.manifest.get("overrides", {}) if own else {}) | changes)
        found = measured(run.path) | ({"gflops": gflops} if gflops else {})
        rows = compare(settings, found, histogram)
        shown = json.dumps({"profile": settings.name, "run": against, "rows": rows}, indent=1)
        table = render_comparison(settings.name, against, rows, found, settings.machine.reference_gflops)
        print(shown if as_json else table)
        return
    settings = load_profile(profile or DEFAULT_PROFILE, changes)
    on_cpu = settings.machine.device == "cpu"
    layer = measure_layer(1.0) if here and on_cpu else None
    if pipeline:
        source, speed = profile or DEFAULT_PROFILE, {"gflops": gflops or None, "layer": layer}
        priced = plan_pipeline(source, changes, pipeline, lengths=histogram, **speed)
        told = asdict(priced) | {"hours": priced.hours, "disk": priced.disk}
        print(json.dumps(told, indent=1) if as_json else render_pipeline(priced))
        return
    made = make_plan(settings, lengths=histogram, gflops=gflops or None, layer=layer)
    print(json.dumps(made.as_dict(), indent=1) if as_json else render(made))
