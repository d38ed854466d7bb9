"""`r1kit doctor` checks a profile and this machine, `r1kit plan` predicts memory, hours and disk, and
`r1kit serve` starts a vLLM server.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1kit.cli.options import DEFAULT_PROFILE, JsonOption, ProfileOption, show
from r1kit.runs.outcome import ExitCode
from r1kit.settings import examine_profile, load_profile, parse_overrides

if TYPE_CHECKING:
    from r1kit.settings.known_models import Lengths


def doctor(
    profile: ProfileOption = DEFAULT_PROFILE,
    settings_only: Annotated[
        bool, typer.Option("--settings-only", help="Check only the files, not this machine.")
    ] = False,
    packing: Annotated[
        bool, typer.Option("--packing", help="Test on this machine that packed traces do not see each other.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a profile and whether this machine can run it; say what to do about each problem."""
    if settings_only:
        raise typer.Exit(_examine(profile, as_json))
    if packing:
        raise typer.Exit(_prove_packing(profile))
    from r1kit.machine import doctor as checks
    from r1kit.runs.folder import runs_folder
    from r1kit.sandbox import tiers

    settings = load_profile(profile)
    found = [*checks.check(settings, runs_folder()), tiers.check(settings)]
    for warning in settings.warnings:
        where = f"{warning.where} {warning.key}: {warning.found}. {warning.message}"
        found.append(
            checks.Check(warning.rule, False, where, warning.allowed, "or leave it knowingly", "warn")
        )
    show([asdict(check) for check in found], as_json, lambda: checks.render(found))
    raise typer.Exit(ExitCode.FAILED if any(check.level == "fail" for check in found) else ExitCode.DONE)


def _examine(profile: str, as_json: bool) -> int:
    """Print the problems of a profile's files; return 2 if one is an error."""
    problems = examine_profile(profile)
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        print(json.dumps({"findings": [problem.as_finding() for problem in problems]}, indent=1))
    else:
        for problem in problems:
            print(f"[{problem.severity.upper()}] {problem.rule}: {problem}\n")
        print(f"{profile}: {errors} errors, {len(problems) - errors} warnings")
    return ExitCode.BAD_INPUT if errors else ExitCode.DONE


def _prove_packing(profile: str) -> int:
    """Run the packing self-test with the profile's attention on this device; return 1 if it fails."""
    from r1kit.machine import detect_device
    from r1kit.training.packing import prove_packing

    settings = load_profile(profile)
    device, _ = detect_device()
    attention = settings.sft.model.get("attn_implementation") or "sdpa"
    try:
        proof = prove_packing(attention, device, "float32" if device == "cpu" else "bfloat16")
    except (ImportError, ValueError) as error:
        print(f"{attention} cannot be used on this machine: {error}")
        return ExitCode.FAILED
    print(proof)
    return ExitCode.DONE if proof.holds else ExitCode.FAILED


def plan(
    profile: Annotated[
        str,
        typer.Option(
            help="A folder of configs/, by name or path.",
            show_default="cpu-tiny, or the profile of the run for --against",
        ),
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as sft.max_length=16384.")
    ] = None,
    pipeline: Annotated[
        str, typer.Option(help="A pipeline of the profile, such as r1: predict each of its stages.")
    ] = "",
    against: Annotated[str, typer.Option(help="A run: compare the prediction with its measurements.")] = "",
    lengths: Annotated[
        str, typer.Option(help="A JSON file with the traces' lengths: a list of pairs (tokens, documents).")
    ] = "",
    gflops: Annotated[float, typer.Option(help="Matrix speed of the CPU; 0 uses the profile's value.")] = 0.0,
    here: Annotated[
        bool, typer.Option("--here", help="Measure this CPU's speed now, in a second, and plan for it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a profile's memory, hours and disk before a run: what fits, and what to change."""
    from r1kit.machine.plan import make_plan, plan_pipeline
    from r1kit.machine.speed import measure_gflops
    from r1kit.settings.known_models import read_lengths
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
        show(content, as_json, lambda: render_pipeline(priced))
        return
    made = make_plan(settings, **given)
    show(made.as_dict(), as_json, lambda: render(made))


def _compare(
    name: str,
    profile: str,
    changes: dict[str, Any],
    lengths: Lengths | None,
    gflops: float,
    as_json: bool,
) -> None:
    """Compare the plan with a run's measurements, by default for the run's own profile and changes."""
    from r1kit.machine.plan import make_plan
    from r1kit.runs.folder import open_run
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
    show(content, as_json, lambda: render_comparison(made, name, rows, speed))


def serve(
    model: Annotated[str, typer.Option(help="A model folder, such as runs/<run>/02_sft/model, or a hub id.")],
    profile: ProfileOption = DEFAULT_PROFILE,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as machine.server.port=8000.")
    ] = None,
    folder: Annotated[
        str,
        typer.Option(help="A folder for its log, key and state.", show_default="runs/servers/<time>"),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Serve a model with vLLM, with the settings of the profile's machine.yaml, until Ctrl-C."""
    from r1kit.runs.files import shown
    from r1kit.serving import server as serving

    settings = load_profile(profile, parse_overrides(set_ or []))

    def tell(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    found = serving.serve(folder or serving.new_folder(settings.name), settings.machine, model, tell=tell)
    tell(f"serving {model}; its files are in {shown(found.folder)}")
    raise typer.Exit(
        serving.stay(found, lambda: print(json.dumps(found.state), flush=True) if as_json else None)
    )
