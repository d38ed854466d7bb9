"""`r1kit doctor`: a profile, and this machine against it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption, ProfileOption


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
    from r1kit.runs.folder import runs_folder
    from r1kit.sandbox import report
    from r1kit.settings import load_profile

    settings = load_profile(profile)
    found = [*checks.check(settings, runs_folder()), report.check(settings)]
    for warning in settings.warnings:
        where = f"{warning.where} {warning.key}: {warning.found}. {warning.message}"
        found.append(
            checks.Check(warning.rule, False, where, warning.allowed, "or leave it knowingly", "warn")
        )
    print(json.dumps([asdict(check) for check in found], indent=1) if as_json else checks.render(found))
    raise typer.Exit(1 if any(check.level == "fail" for check in found) else 0)


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
    from r1kit.training.packing import prove_packing

    settings = load_profile(profile)
    device, _ = detect_device()
    attention = settings.sft.model.get("attn_implementation") or "sdpa"
    try:
        proof = prove_packing(attention, device, "float32" if device == "cpu" else "bfloat16")
    except (ImportError, ValueError) as error:
        print(f"{attention} cannot be used on this machine: {error}")
        return 1
    print(proof)
    return 0 if proof.holds else 1
