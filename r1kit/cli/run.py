"""`r1kit run` runs stages, here or as a Slurm job, `r1kit status` shows a run, and `r1kit slurm` manages the
jobs of runs.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from r1kit.cli.options import DEFAULT_PROFILE, JsonOption, ProfileOption, SetOption, show
from r1kit.runs.outcome import ExitCode

if TYPE_CHECKING:
    from r1kit.runs.folder import Run
    from r1kit.settings import Profile
    from r1kit.settings.machine import Site


def run(
    profile: Annotated[
        str,
        typer.Option(
            help="A folder of configs/, by name or path.",
            show_default="cpu-tiny, or the profile of the run for --resume",
        ),
    ] = "",
    stages: Annotated[
        str,
        typer.Option(
            help="Stages to run: 01-04, 02_sft, 00,05 or all.", show_default="those the profile can run"
        ),
    ] = "",
    pipeline: Annotated[
        str,
        typer.Option(
            help="Composed trainings of pipeline.yaml, as stages 01 and 06: r1 or r1,r1-flat,r1-zero."
        ),
    ] = "",
    set_: SetOption = None,
    resume: Annotated[str, typer.Option(help="Resume this run; finished stages are skipped.")] = "",
    run_id: Annotated[str, typer.Option(help="Name of the new run.", show_default="made from the time")] = "",
    strict: Annotated[
        bool, typer.Option(help="Exit with 5 if pass@1 is outside the profile's range.")
    ] = False,
    on: Annotated[str, typer.Option(help="`here`, or `slurm` for a batch job.")] = "here",
    site: Annotated[str, typer.Option(help="A file of sites/, by name or path (with --on slurm).")] = "",
    detach: Annotated[bool, typer.Option(help="Submit and return (with --on slurm).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the notebooks in order, without a browser, and print the results of the models."""
    place = site_of(on, site)
    from r1kit.pipeline.open_run import check_stages, new_run, reopen_run
    from r1kit.pipeline.run import run_stages, unexpected_scores
    from r1kit.pipeline.stages import requested_stages, select_stages
    from r1kit.runs.files import shown
    from r1kit.runs.results import summarise
    from r1kit.settings import load_profile, parse_overrides
    from r1kit.views.progress import Progress, print_summary

    changes = parse_overrides(set_ or [])
    if resume and pipeline:
        raise typer.BadParameter("a run keeps its pipeline; leave --pipeline out with --resume")
    if stages:
        select_stages(stages)  # raises for a wrong name before anything is opened
    if resume:
        found, settings = reopen_run(resume, profile, changes)
        names = (not stages and found.manifest.get("stages")) or requested_stages(stages, settings)
        check_stages(settings, names)
    else:
        profile = profile or DEFAULT_PROFILE
        names = requested_stages(stages, load_profile(profile, changes), pipeline)
        found, settings = new_run(profile, changes, run_id or None, stages=names, pipeline=pipeline)
    if place is not None:
        submit_and_follow(found, settings, names, place, strict, detach, as_json)
    outcome = run_stages(found, names, settings, Progress(sys.stderr if as_json else None))
    summary, unexpected = summarise(found), unexpected_scores(found, settings)
    code = outcome.code or (ExitCode.UNEXPECTED if strict and unexpected else ExitCode.DONE)
    if as_json:
        print(json.dumps(summary | {"exit_code": code, "unexpected": unexpected}, indent=1))
    else:
        print_summary(summary, shown(found.path))
        print("\n".join([outcome.message] if outcome.message else unexpected))
    raise typer.Exit(code)


def status(
    run_id: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Name of the run.", show_default="the newest")
    ] = "",
    as_json: JsonOption = False,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Show where each checkpoint and dataset comes from.")
    ] = False,
) -> None:
    """Show the state of a run: its stages, their results, pass@1."""
    from r1kit.runs.files import shown
    from r1kit.runs.folder import open_run
    from r1kit.runs.results import summarise
    from r1kit.views.progress import print_summary

    found = open_run(run_id or "newest")
    if lineage:
        from r1kit.pipeline.lineage import family
        from r1kit.views.lineage import tree

        members = family(found)
        show(members, as_json, lambda: tree(members))
        return
    summary = summarise(found)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        print_summary(summary, shown(found.path))


jobs = typer.Typer(help="Manage runs that are Slurm jobs.", no_args_is_help=True)


def site_of(on: str, site: str) -> Site | None:
    """Return the site for `--on slurm`, None for `--on here`."""
    from r1kit.settings.machine import load_site

    if on not in ("here", "slurm"):
        raise typer.BadParameter(f"--on takes here or slurm, not {on!r}")
    return load_site(site) if on == "slurm" else None


def submit_and_follow(
    run: Run, settings: Profile, stages: list[str], site: Site, strict: bool, detach: bool, as_json: bool
) -> None:
    """Hand the run to Slurm and follow it; never returns."""
    from r1kit.pipeline import slurm

    run.update_manifest(stages=sorted({*run.manifest.get("stages", []), *stages}))
    job = slurm.submit(run, slurm.render(run, settings, stages, site, strict=strict))
    if detach:
        content = {"run_id": run.run_id, "job": job}
        print(json.dumps(content) if as_json else f"run {run.run_id} is job {job}")
        raise typer.Exit(ExitCode.DONE)
    _follow(run, as_json)


def _follow(run: Run, as_json: bool = False) -> None:
    """Print the job's progress until it ends, and exit with its code. Ctrl-C does not stop the job."""
    from r1kit.pipeline import slurm
    from r1kit.runs.results import summarise

    out = sys.stderr if as_json else sys.stdout
    try:
        for line in slurm.follow(run):
            print(line, file=out, flush=True)
    except KeyboardInterrupt:
        print(f"\nthe job continues; r1kit slurm follow|cancel {run.run_id}", file=out)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    code, message = slurm.outcome(run)
    if message:
        print(message, file=sys.stderr)
    if as_json:
        print(json.dumps(summarise(run) | {"exit_code": code}, indent=1))
    raise typer.Exit(code)


@jobs.command("follow")
def slurm_follow(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Print the progress of a run's job until it ends; exit with its code."""
    from r1kit.runs.folder import open_run

    _follow(open_run(run_id))


@jobs.command("cancel")
def slurm_cancel(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Cancel a run's job; a running job writes a checkpoint first."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.open_run import reopen_run

    found, settings = reopen_run(run_id, "", {})
    print(slurm.cancel(found, settings.machine.grace_seconds))


@jobs.command("script")
def slurm_script(
    profile: ProfileOption = DEFAULT_PROFILE,
    stages: Annotated[str, typer.Option(help="Stages to run, as in `r1kit run`.")] = "all",
    site: Annotated[str, typer.Option(help="A file of sites/, by name or path.")] = "",
    pipeline: Annotated[str, typer.Option(help="A composed training of pipeline.yaml.")] = "",
) -> None:
    """Print the batch script that `r1kit run --on slurm` would submit, without submitting it."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.open_run import load_settings, split_pipelines
    from r1kit.pipeline.stages import requested_stages
    from r1kit.runs.folder import Run, new_run_id, runs_folder
    from r1kit.settings.machine import load_site

    settings, run_id = load_settings(profile, {}, split_pipelines(pipeline)[0]), new_run_id(profile)
    found = Run(run_id, runs_folder() / run_id)
    names = requested_stages(stages, settings, pipeline)
    print(slurm.render(found, settings, names, load_site(site)), end="")
