"""A file of curation steps, read and checked like a profile's files; it belongs to no profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1kit.settings.curation import CurationSettings
from r1kit.settings.errors import Problem, SettingsError, display_path
from r1kit.settings.overrides import settings_of
from r1kit.settings.validation import Source


def load_curation(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> CurationSettings:
    """The steps of a YAML file (none: the defaults), with overrides such as `curation.near.threshold` on top.

    Raises:
        SettingsError: a file that cannot be read, an unknown key, or a value that is not allowed; all
            problems at once.
    """
    source = Source("curation", display_path(path) if path else "the default steps")
    settings, problems = settings_of(CurationSettings, source, overrides or {}, Path(path) if path else None)
    if settings is not None:
        problems = list(_rules(settings, source))
    if problems:
        raise SettingsError(problems, "bad curation steps")
    return settings


def _rules(settings: CurationSettings, source: Source) -> Iterator[Problem]:
    band = settings.pass_rate
    if band and band.least >= band.most:
        message = "No problem has such a pass rate."
        found = f"{band.least:g} to {band.most:g}"
        yield source.problem(("pass_rate", "least"), found=found, allowed="least < most", message=message)
