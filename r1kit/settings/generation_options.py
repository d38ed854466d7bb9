"""Options of `r1kit data generate` as typed settings, with the same messages as a profile's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from r1kit.settings.errors import SettingsError
from r1kit.settings.generation import GenerationSettings
from r1kit.settings.overrides import settings_of
from r1kit.settings.validation import Source


def generation_settings(options: Mapping[str, Any]) -> GenerationSettings:
    """Settings from options such as `generation.sampling.temperature`; a later option replaces an earlier.

    Raises:
        SettingsError: with all problems at once.
    """
    source = Source("generation", "the options")
    settings, problems = settings_of(GenerationSettings, source, options)
    if settings is not None and not re.match(r"https?://[^/]", settings.url):
        allowed = "http://host:port/v1 or https://host/v1"
        problems = [source.problem(("url",), found=settings.url, allowed=allowed)]
    if problems:
        raise SettingsError(problems, "bad options")
    return settings
