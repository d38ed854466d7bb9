"""`r1kit data`: real data, from datasets of the hub or a mirror folder to the sets that a training reads."""

from __future__ import annotations

import typer

from r1kit.commands import data_curate, data_generate, data_prepare

data = typer.Typer(help="Prepare, generate and curate real data.", no_args_is_help=True)


@data.callback()
def group() -> None:
    """Prepare, generate and curate real data."""


for command in (data_prepare.prepare, data_prepare.shards, data_generate.generate, data_curate.curate):
    data.command()(command)
