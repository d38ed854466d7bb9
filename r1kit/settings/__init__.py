"""Typed, checked settings: profiles, overrides and notebook parameters. Needs neither torch nor TRL.

A profile is a folder of YAML files. `profile.load_profile` reads them (`yaml`), checks each against the model
of its file (`data`, `machine`, `training`, ... through `validation`; TRL's own keys through `trl_keys`), then
checks them together (`rules`), and raises one SettingsError with every problem.

Names are loaded when first used, so that a module which needs only `errors` does not load pydantic.
"""

from importlib import import_module

_WHERE = {
    "Problem": "errors",
    "SettingsError": "errors",
    "UserError": "errors",
    "nearest_name": "errors",
    "Profile": "profile",
    "examine_profile": "profile",
    "load_profile": "profile",
    "profile_names": "profile",
    "resolved_section": "profile",
    "settings_hash": "profile",
    "parse_override": "validation",
    "parse_overrides": "validation",
    "yaml_dump": "yaml",
    "yaml_load": "yaml",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
