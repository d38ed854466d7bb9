"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_PROFILE = "cpu-tiny"

ProfileOption = Annotated[str, typer.Option("--profile", help="A folder of configs/, by name or path.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting: sft.learning_rate=1e-3")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
