"""`r1kit bench`: a part measured side by side with what it replaces."""

from __future__ import annotations

import json

import typer

from r1kit.commands.options import JsonOption

benchmarks = typer.Typer(help="Measure a part side by side with what it replaces.", no_args_is_help=True)


@benchmarks.command("rewards")
def bench_rewards(as_json: JsonOption = False) -> None:
    """The accuracy reward beside math-verify called one answer after the other."""
    from r1kit.bench import rewards

    found = rewards.bench()
    print(json.dumps(found, indent=1) if as_json else rewards.table(found))


@benchmarks.command("sandbox")
def bench_sandbox(as_json: JsonOption = False) -> None:
    """Runs per second in each tier of the sandbox, beside bare Python's."""
    from r1kit.bench import sandbox

    found = sandbox.bench()
    print(json.dumps(found, indent=1) if as_json else sandbox.table(found))
