"""The prepared data of a profile: where it lies, and making it where it is not there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.data import card as cards
from r1kit.data.tokens import token_counter
from r1kit.machine.plan.inputs import given
from r1kit.pipeline.stages import base_model
from r1kit.runs.files import write_text_atomic
from r1kit.runs.folder import runs_folder
from r1kit.settings import Problem, Profile, SettingsError
from r1kit.settings.errors import display_path
from r1kit.settings.hub_data import HubDataSettings

if TYPE_CHECKING:
    from r1kit.data.prepare import Progress

STORE = "R1KIT_DATA"


@dataclass(frozen=True)
class Prepared:
    """Prepared data: its folder, its card, and whether it was made just now."""

    folder: Path
    card: cards.Card
    fresh: bool


def prepared_folder() -> Path:
    """Where prepared data lies: `$R1KIT_DATA`, or `prepared/` in the runs folder. Runs share it."""
    return Path(os.environ.get(STORE) or runs_folder() / "prepared").expanduser().resolve()


def estimate(settings: Profile, card: cards.Card) -> dict[str, str]:
    """Say what `r1kit plan` makes of the prepared traces: tokens, epochs, steps, hours; or why it cannot."""
    from r1kit.machine.plan import make_plan

    lengths = card.trace_lengths()
    if lengths is None:
        return {"no estimate": "there are no traces"}
    try:
        made = make_plan(settings, lengths=lengths, documents=card.sets["traces"])
    except SettingsError as error:
        return {"no estimate": str(error).splitlines()[-1].strip()}
    sft = made.sft
    return {
        "traces": f"{card.sets['traces']:,} of {lengths.mean:,.0f} tokens on average",
        "tokens": f"{sft.tokens:,} in {sft.epochs:.3g} epochs",
        "steps": f"{sft.steps:,} of {sft.step_seconds:.3g} s",
        "time": f"{sft.hours:.3g} hours on {made.device.name}, an estimate (r1kit plan)",
    }


def prepare_profile(
    settings: Profile, workers: int = 1, progress: Progress = lambda name, done, rows: None
) -> Prepared:
    """The data of a profile, prepared now unless it is there; writes the card's text anew.

    Raises:
        SettingsError: the profile's data are stories.
        NotThere, DatasetChanged, NotASet: a dataset cannot be read as it should; each is one message.
    """
    from r1kit.data import prepare as preparation  # loads Arrow, which stories do without

    if not isinstance(settings.data, HubDataSettings):
        file = display_path(settings.folder / "data.yaml")
        message = "The stories are made by the stage 01_data, in seconds; nothing is prepared."
        raise SettingsError([Problem(file, "source", found="stories", allowed="hub", message=message)])
    tokens = token_counter(base_model(settings))
    planned = preparation.plan(settings.data, tokens, settings.folder)
    folder = prepared_folder() / f"{settings.name}-{planned.digest}"
    fresh = preparation.finished(folder) is None
    card = preparation.prepare(planned, folder, workers, progress)
    text = cards.render(card, given(settings, "sft", "max_length"), estimate(settings, card))
    write_text_atomic(folder / cards.TEXT, text)
    return Prepared(folder, card, fresh)
