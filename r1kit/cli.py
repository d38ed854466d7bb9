"""The command line: parse, call, print. `r1kit run | status | doctor`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="See DeepSeek-R1's training happen: data, SFT, rollouts, GRPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProfileOption = Annotated[str, typer.Option("--profile", help="A folder of configs/, by name or path.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(
    profile: ProfileOption = "cpu-tiny",
    stages: Annotated[str, typer.Option(help="01-04, 02_sft, 00,05 or all.")] = "all",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: sft.learning_rate=1e-3")] = None,
    resume: Annotated[str, typer.Option(help="Go on with this run: finished stages are skipped.")] = "",
    run_id: Annotated[str, typer.Option(help="Name for the new run; made from the time otherwise.")] = "",
    strict: Annotated[bool, typer.Option(help="Exit with 5 where pass@1 is outside the profile's range.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run notebooks in order, headlessly, and print the table of what the models learned."""
    from r1kit.pipeline.command import run_command

    raise typer.Exit(
        run_command(profile, stages, set_ or [], resume=resume, run_id=run_id, strict=strict, as_json=as_json)
    )


@app.command()
def status(
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="The newest run otherwise.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Where a run stands: its stages, their results, pass@1."""
    from r1kit.runs.folder import open_run
    from r1kit.runs.results import summarise

    found = open_run(run_id or "newest")
    summary = summarise(found)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        from r1kit.views.tables import print_summary

        print_summary(summary, found.path)


@app.command()
def doctor(profile: ProfileOption = "cpu-tiny", as_json: JsonOption = False) -> None:
    """Check this machine against a profile: found, wanted, what to do."""
    from dataclasses import asdict

    from r1kit.machine import doctor as checks
    from r1kit.settings import load_profile

    found = checks.check(load_profile(profile))
    print(json.dumps([asdict(check) for check in found], indent=1) if as_json else checks.render(found))
    raise typer.Exit(1 if any(check.level == "fail" for check in found) else 0)


def main() -> None:
    """Entry point of `r1kit`. Bad settings and unknown names print one message and exit with code 2."""
    from r1kit.errors import UserError

    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
