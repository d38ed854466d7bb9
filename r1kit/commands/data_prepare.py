"""`r1kit data prepare` and `r1kit data shards`: a profile's real data, and small stand-ins for it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from r1kit.commands.options import JsonOption, SetOption

ProfileWithData = Annotated[
    str, typer.Option("--profile", help="A profile whose data.yaml says source: hub.")
]


def prepare(
    profile: ProfileWithData,
    set_: SetOption = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes all cores.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a profile's real data ready for its trainings, and print the data card.

    Datasets come from the hub, or from the mirror folder that data.yaml or $R1KIT_MIRROR names. What was
    prepared before is found again; a preparation that was killed goes on.
    """
    from r1kit.data.card import TEXT
    from r1kit.machine.resources import cores
    from r1kit.pipeline.real_data import estimate, prepare_profile
    from r1kit.settings import load_profile, parse_overrides

    settings = load_profile(profile, parse_overrides(set_ or []))
    made = prepare_profile(settings, workers or cores(), _Progress())
    if as_json:
        card = {"folder": str(made.folder), **asdict(made.card), "training": estimate(settings, made.card)}
        print(json.dumps(card, indent=1))
        return
    print((made.folder / TEXT).read_text(encoding="utf-8"))
    print(f"the data is in {made.folder}" + ("" if made.fresh else ", prepared before"))


def shards(
    folder: Annotated[str, typer.Argument(help="A folder for the datasets: a mirror.")],
    rows: Annotated[int, typer.Option(help="Of each dataset.", min=20)] = 60,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write small datasets of our own making in the real ones' schemas: real data's whole way offline."""
    from r1kit.data.synthetic_mirror import write_mirror

    files = write_mirror(folder, seed, rows)
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files of {rows} rows, {size / 1e3:,.0f} kB, in {folder}")
    use = f"R1KIT_MIRROR={folder} r1kit data prepare --profile gpu-small --set data.excerpt=true"
    print(f"now: {use} --set data.heldout_share=0.1")


class _Progress:
    """A line on stderr for each dataset, rewritten twice a second on a terminal, once a minute elsewhere."""

    def __init__(self) -> None:
        self.name, self.began, self.said = "", 0.0, 0.0

    def __call__(self, name: str, done: int, rows: int | None) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if name != self.name:
            self.name, self.began, self.said = name, now, 0.0
        last = done == rows
        if not last and now - self.said < (0.5 if terminal else 60):
            return
        self.said = now
        seconds = now - self.began
        wanted = f" of {rows:,} rows" if rows else " rows"
        rate = f", {done / seconds:,.0f} a second" if seconds > 0.5 else ""
        left = f", {(rows / done - 1) * seconds / 60:.1f} minutes left" if rate and rows and not last else ""
        start, end = ("\r", "\n" if last else "") if terminal else ("", "\n")
        print(
            f"{start}{name}: {done:,}{wanted}{rate}{left}",
            end=end,
            file=sys.stderr,
            flush=True,
        )
