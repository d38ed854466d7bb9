"""The command line: parse, call, print. `r1kit run | status | serve | doctor | plan | bench`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from r1kit.runs.folder import Run

app = typer.Typer(
    help="See DeepSeek-R1's training happen: data, SFT, rollouts, GRPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

benchmarks = typer.Typer(help="Measure a part side by side with what it replaces.", no_args_is_help=True)
app.add_typer(benchmarks, name="bench")
jobs = typer.Typer(help="Runs as batch jobs of a cluster.", no_args_is_help=True)
app.add_typer(jobs, name="slurm")

DEFAULT_PROFILE = "cpu-tiny"

ProfileOption = Annotated[str, typer.Option("--profile", help="A folder of configs/, by name or path.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def run(
    profile: Annotated[str, typer.Option(help="A folder of configs/, or its path. [default: cpu-tiny]")] = "",
    stages: Annotated[str, typer.Option(help="01-04, 02_sft, 00,05 or all. [default: all]")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: sft.learning_rate=1e-3")] = None,
    resume: Annotated[str, typer.Option(help="Go on with this run: finished stages are skipped.")] = "",
    run_id: Annotated[str, typer.Option(help="Name for the new run; made from the time otherwise.")] = "",
    strict: Annotated[
        bool, typer.Option(help="Exit with 5 where pass@1 is outside the profile's range.")
    ] = False,
    on: Annotated[str, typer.Option(help="`here`, or `slurm`: as a batch job.")] = "here",
    site: Annotated[str, typer.Option(help="A file of sites/, by name or path (with --on slurm).")] = "",
    detach: Annotated[bool, typer.Option(help="Submit and return (with --on slurm).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run notebooks in order, headlessly, and print the table of what the models learned."""
    if on != "here":
        _run_on(on, profile, stages, set_ or [], resume, run_id, strict, site, detach, as_json)
    from r1kit.pipeline.prerequisites import new_run, reopen_run
    from r1kit.pipeline.run import NOT_AS_EXPECTED, run_stages, surprises
    from r1kit.pipeline.stages import select
    from r1kit.runs.files import shown
    from r1kit.runs.results import summarise
    from r1kit.settings import parse_overrides
    from r1kit.views.progress import Progress
    from r1kit.views.tables import print_summary

    names, changes = select(stages) if stages else [], parse_overrides(set_ or [])
    if resume:
        found, settings = reopen_run(resume, profile, changes)
    else:
        asked = names or select("all")
        found, settings = new_run(profile or DEFAULT_PROFILE, changes, run_id or None, stages=asked)
    names = names or found.manifest.get("stages") or select("all")
    outcome = run_stages(found, names, settings, Progress(sys.stderr if as_json else None))
    summary, unexpected = summarise(found), surprises(found, settings)
    code = outcome.code or (NOT_AS_EXPECTED if strict and unexpected else 0)
    if as_json:
        print(json.dumps(summary | {"exit_code": code, "unexpected": unexpected}, indent=1))
    else:
        print_summary(summary, shown(found.path))
        print("\n".join([outcome.message] if outcome.message else unexpected))
    raise typer.Exit(code)


def _run_on(
    on: str,
    profile: str,
    stages: str,
    changes: list[str],
    resume: str,
    run_id: str,
    strict: bool,
    site: str,
    detach: bool,
    as_json: bool,
) -> None:
    """Make or reopen the run, hand it to Slurm, and follow it; never returns."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.prerequisites import new_run, reopen_run
    from r1kit.pipeline.stages import select
    from r1kit.settings import parse_overrides
    from r1kit.settings.site import load_site

    if on != "slurm":
        raise typer.BadParameter(f"--on takes here or slurm, not {on!r}")
    names, parsed, place = select(stages or "all"), parse_overrides(changes), load_site(site)
    if resume:
        found, settings = reopen_run(resume, profile, parsed)
    else:
        found, settings = new_run(profile or DEFAULT_PROFILE, parsed, run_id or None)
    job = slurm.submit(found, slurm.render(found, settings, names, place, strict=strict))
    if detach:
        print(
            json.dumps({"run_id": found.run_id, "job": job})
            if as_json
            else f"run {found.run_id} is job {job}"
        )
        raise typer.Exit(0)
    _follow(found, as_json)


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
    from r1kit.pipeline.prerequisites import reopen_run

    found, settings = reopen_run(run_id, "", {})
    print(slurm.cancel(found, settings.machine.grace_seconds))


@jobs.command("script")
def slurm_script(
    profile: ProfileOption = DEFAULT_PROFILE,
    stages: Annotated[str, typer.Option(help="As of `r1kit run`.")] = "all",
    site: Annotated[str, typer.Option(help="A file of sites/, by name or path.")] = "",
) -> None:
    """Print the batch script that `r1kit run --on slurm` would submit; makes and submits nothing."""
    from r1kit.pipeline import slurm
    from r1kit.pipeline.stages import select
    from r1kit.runs.folder import Run, new_run_id, runs_folder
    from r1kit.settings import load_profile
    from r1kit.settings.site import load_site

    settings, run_id = load_profile(profile), new_run_id(profile)
    found = Run(run_id, runs_folder() / run_id)
    print(slurm.render(found, settings, select(stages), load_site(site)), end="")


@app.command()
def status(
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="The newest run otherwise.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Where a run stands: its stages, their results, pass@1."""
    from r1kit.runs.files import shown
    from r1kit.runs.folder import RunError, newest_run, open_run
    from r1kit.runs.results import summarise
    from r1kit.views.tables import print_summary

    found = open_run(run_id) if run_id else newest_run()
    if found is None:
        raise RunError("there are no runs yet; `r1kit run` starts one")
    summary = summarise(found)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        print_summary(summary, shown(found.path))


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="A model folder, such as runs/<run>/02_sft/model, or a hub id.")],
    profile: ProfileOption = DEFAULT_PROFILE,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: machine.server.port=8000")
    ] = None,
    folder: Annotated[
        str, typer.Option(help="For its log, key and state. [default: runs/servers/<time>]")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Serve a model with vLLM as the profile's machine.yaml says, until Ctrl-C."""
    from r1kit.runs.files import shown
    from r1kit.serving import start as serving
    from r1kit.settings import load_profile, parse_overrides

    settings = load_profile(profile, parse_overrides(set_ or []))

    def tell(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    found = serving.serve(folder or serving.new_folder(settings.name), settings.machine, model, tell=tell)
    tell(f"serving {model}; its files are in {shown(found.folder)}")
    raise typer.Exit(
        serving.stay(found, lambda: print(json.dumps(found.state), flush=True) if as_json else None)
    )


@app.command()
def doctor(
    profile: ProfileOption = DEFAULT_PROFILE,
    settings_only: Annotated[
        bool, typer.Option("--settings-only", help="Check the files alone, not this machine.")
    ] = False,
    packing: Annotated[
        bool, typer.Option("--packing", help="Prove here that packed traces do not see each other.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a profile, and this machine against it: found, wanted, what to do."""
    if settings_only:
        raise typer.Exit(_examine(profile, as_json))
    if packing:
        raise typer.Exit(_prove_packing(profile))
    from dataclasses import asdict

    from r1kit.machine import doctor as checks
    from r1kit.sandbox import report
    from r1kit.settings import load_profile

    settings = load_profile(profile)
    found = [*checks.check(settings), report.check(settings)]
    for warning in settings.warnings:
        where = f"{warning.where} {warning.key}: {warning.found}. {warning.message}"
        found.append(
            checks.Check(warning.rule, False, where, warning.allowed, "or leave it knowingly", "warn")
        )
    print(json.dumps([asdict(check) for check in found], indent=1) if as_json else checks.render(found))
    raise typer.Exit(1 if any(check.level == "fail" for check in found) else 0)


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


def _examine(profile: str, as_json: bool) -> int:
    """Print what is wrong with a profile's files; 2 if there is an error."""
    from r1kit.settings import examine_profile

    problems = examine_profile(profile)
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        print(json.dumps({"findings": [problem.as_finding() for problem in problems]}, indent=1))
    else:
        for problem in problems:
            print(f"[{problem.severity.upper()}] {problem.rule}: {problem}\n")
        print(f"{profile}: {errors} errors, {len(problems) - errors} warnings")
    return 2 if errors else 0


def _prove_packing(profile: str) -> int:
    """Run the packing self-test with the profile's attention on the device at hand; 1 if it fails."""
    from r1kit.machine import detect_device
    from r1kit.settings import load_profile
    from r1kit.training.block_diagonal import prove

    settings = load_profile(profile)
    device, _ = detect_device()
    attention = settings.sft.model.get("attn_implementation") or "sdpa"
    try:
        proof = prove(attention, device, "float32" if device == "cpu" else "bfloat16")
    except (ImportError, ValueError) as error:
        print(f"{attention} cannot be used on this machine: {error}")
        return 1
    print(proof)
    return 0 if proof.holds else 1


@app.command()
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


def main() -> None:
    """Entry point of `r1kit`. What the user got wrong is one message and exit code 2, never a traceback."""
    try:
        app()
    except ValueError as error:
        if not hasattr(error, "exit_code"):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
