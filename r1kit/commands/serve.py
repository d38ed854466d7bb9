"""`r1kit serve`: a vLLM server from a shell."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from r1kit.commands.options import DEFAULT_PROFILE, JsonOption, ProfileOption


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
