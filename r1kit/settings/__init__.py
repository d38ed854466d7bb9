"""Typed, checked settings: profiles, overrides and notebook parameters. Light to import: no torch, no TRL."""

from r1kit.settings.errors import Problem, SettingsError, nearest_name
from r1kit.settings.profile import (
    Profile,
    examine_profile,
    load_profile,
    profile_names,
    resolved_section,
    settings_hash,
)
from r1kit.settings.validation import parse_override, parse_overrides
from r1kit.settings.yaml import yaml_dump, yaml_load

__all__ = [
    "Problem",
    "Profile",
    "SettingsError",
    "examine_profile",
    "load_profile",
    "nearest_name",
    "parse_override",
    "parse_overrides",
    "profile_names",
    "resolved_section",
    "settings_hash",
    "yaml_dump",
    "yaml_load",
]
