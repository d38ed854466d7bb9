"""`r1kit data`: real data, from datasets of the hub or a mirror folder to the sets that a training reads."""

from __future__ import annotations

import typer

data = typer.Typer(help="Prepare, generate and curate real data.", no_args_is_help=True)


@data.callback()
def group() -> None:
    """Prepare, generate and curate real data."""
