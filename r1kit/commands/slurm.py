"""`r1kit run --on slurm` and `r1kit slurm follow | cancel | script`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from r1kit.commands.options import DEFAULT_PROFILE, ProfileOption

if TYPE_CHECKING:
    from r1kit.runs.folder import Run
    from r1kit.settings import Profile
    from r1kit.settings.site import Site

jobs = typer.Typer(help="Runs as batch jobs of a cluster.", no_args_is_help=True)


def site_of(on: str, site: str) -> Site | None:
    """The site for `--on slurm`, None for `--on here`."""
    from r1kit.settings.site import load_site

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
        told = {"run_id": run.run_id, "job": job}
        print(json.dumps(told) if as_json else f"run {run.run_id} is job {job}")
        raise typer.Exit(0)
    _follow(run, as_json)


def _follow(run: Run, as_json: bool = False) -> None:
    """Print what a run's job does until it ends, and exit with its code. Ctrl-C leaves the job alone."""
    from r1kit.pipeline import slurm
    from r1kit.runs.results import summarise

    out = sys.stderr if as_json else sys.stdout
    try:
        for line in slurm.follow(run):
            print(line, file=out, flush=True)
    except KeyboardInterrupt:
        print(f"\nthe job goes on; r1kit slurm follow|cancel {run.run_id}", file=out)
        raise typer.Exit(130) from None
    code, message = slurm.outcome(run)
    if message:
        print(message, file=sys.stderr)
    if as_json:
        print(json.dumps(summarise(run) | {"exit_code": code}, indent=1))
    raise typer.Exit(code)


@jobs.command("follow")
def slurm_follow(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Print what a run's job does until it ends; exit with its code."""
    from r1kit.runs.folder import open_run

    _follow(open_run(run_id))


@jobs.command("cancel")
def slurm_cancel(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """End a run's job; a running one writes a checkpoint first."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.opening import reopen_run

    found, settings = reopen_run(run_id, "", {})
    print(slurm.cancel(found, settings.machine.grace_seconds))


@jobs.command("script")
def slurm_script(
    profile: ProfileOption = DEFAULT_PROFILE,
    stages: Annotated[str, typer.Option(help="As of `r1kit run`.")] = "all",
    site: Annotated[str, typer.Option(help="A file of sites/, by name or path.")] = "",
    pipeline: Annotated[str, typer.Option(help="A composed training of pipeline.yaml.")] = "",
) -> None:
    """Print the batch script that `r1kit run --on slurm` would submit; makes and submits nothing."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.opening import pipelines_of, settings_of
    from r1kit.pipeline.stages import asked_for
    from r1kit.runs.folder import Run, new_run_id, runs_folder
    from r1kit.settings.site import load_site

    settings, run_id = settings_of(profile, {}, pipelines_of(pipeline)[0]), new_run_id(profile)
    found = Run(run_id, runs_folder() / run_id)
    names = asked_for(stages, settings, pipeline)
    print(slurm.render(found, settings, names, load_site(site)), end="")
