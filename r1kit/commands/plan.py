"""`r1kit plan`: memory, hours and disk before anything starts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption, ProfileOption


def plan(
    profile: ProfileOption = DEFAULT_PROFILE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: sft.max_length=16384")] = None,
    against: Annotated[str, typer.Option(help="A run: print what was predicted beside what it did.")] = "",
    lengths: Annotated[
        str, typer.Option(help="A JSON file with the traces' lengths: [[tokens, documents], ...]")
    ] = "",
    gflops: Annotated[float, typer.Option(help="A CPU's matrix speed, in place of the profile's.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Memory, hours and disk of a profile before anything starts: what fits, and what to change."""
    from r1kit.machine.plan import make_plan
    from r1kit.settings import load_profile, parse_overrides
    from r1kit.settings.lengths import read_lengths
    from r1kit.views.plan import compare, measured, render, render_comparison

    settings = load_profile(profile, parse_overrides(set_ or []))
    made = make_plan(settings, lengths=read_lengths(lengths) if lengths else None, gflops=gflops or None)
    if against:
        from r1kit.runs.folder import open_run

        found = measured(open_run(against).path)
        rows, reference = compare(made, found), settings.machine.reference_gflops
        shown = json.dumps({"profile": settings.name, "run": against, "rows": rows}, indent=1)
        table = render_comparison(settings.name, against, rows, found.get("gflops"), reference)
        print(shown if as_json else table)
        return
    print(json.dumps(made.as_dict(), indent=1) if as_json else render(made))
