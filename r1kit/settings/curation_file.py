"""A file of curation steps, read and checked like a profile's files; it belongs to no profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1kit.settings.curation import CurationSettings
from r1kit.settings.errors import Problem, SettingsError, display_path
from r1kit.settings.overrides import apply_own
from r1kit.settings.validation import Source, validate
from r1kit.settings.yaml import read_document

SECTION = "curation"


def load_curation(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> CurationSettings:
    """The steps of a YAML file (none: the defaults), with overrides such as `curation.near.threshold` on top.

    Raises:
        SettingsError: a file that cannot be read, an unknown key, or a value that is not allowed; all
            problems at once.
    """
    values: dict[str, Any] = {}
    source = Source(SECTION, display_path(path) if path else "the default steps")
    problems: list[Problem] = []
    if path:
        try:
            document = read_document(Path(path).read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError) as error:
            problems = [Problem(source.file, "", found=str(error), allowed="a readable text file (UTF-8)")]
        else:
            problems, source.lines = document.problems, document.lines
            values = document.value if document.value is not None else {}
    problems += apply_own(source, values, overrides or {})
    settings = None
    if not problems:
        settings, problems, _ = validate(CurationSettings, values, source)
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
