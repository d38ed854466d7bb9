"""trl_keys.json is what the installed classes say, and what is said beside it fits to it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from r1kit.settings import examine_profile, trl_keys
from r1kit.settings.profile import known_keys
from r1kit.settings.trl_keys import BOUNDS, REFUSED, RENAMED

SCRIPT = Path(__file__).parents[2] / "requirements" / "trl_keys.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = util.spec_from_file_location("generate_trl_keys", SCRIPT)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_file_is_what_the_installed_classes_say(generator: ModuleType) -> None:
    assert trl_keys.FILE.read_text() == generator.text(generator.content())


@pytest.mark.slow
def test_every_field_of_a_class_is_a_key_with_its_default(generator: ModuleType) -> None:
    for config, kind in generator.classes().items():
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        keys = trl_keys.keys(config)
        assert set(keys) == set(fields)
        assert all(key.default in (..., fields[key.name].default) for key in keys.values())


@pytest.mark.slow
def test_the_choices_that_stand_in_prose_are_those_of_the_help_text(generator: ModuleType) -> None:
    classes = {kind.__name__: kind for kind in generator.classes().values()}
    for name, choices in generator.CHOICES.items():
        config, _, key = name.partition(".")
        (field,) = [field for field in dataclasses.fields(classes[config]) if field.name == key]
        listed = field.metadata.get("choices")
        for choice in choices:
            assert choice in (listed or field.metadata["help"]), f"{name}: {choice}"


def test_types_follow_the_annotations() -> None:
    grpo = trl_keys.keys("grpo")
    assert grpo["sync_ref_model"].type is bool
    assert set(get_args(grpo["generation_batch_size"].type)) >= {type(None)}
    assert bool in get_args(grpo["scale_rewards"].type)
    assert get_args(trl_keys.keys("sft")["save_strategy"].type) == ("no", "steps", "epoch", "best")
    assert trl_keys.default("grpo", "num_generations") == 8
    assert trl_keys.default("sft", "bf16") is None
    assert trl_keys.default("sft", "no_such_key") is ...


def test_an_installed_release_of_another_version_is_a_warning_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9.0" if name == "trl" else real(name))
    (problem,) = [p for p in examine_profile("cpu-tiny") if p.rule == "keys_are_of_the_installed_releases"]
    assert problem.severity == "warning"
    assert (problem.key, problem.found, problem.allowed) == ("trl", "9.9.0", real("trl"))
    assert "python requirements/trl_keys.py" in problem.message


def test_the_file_comes_with_the_package() -> None:
    """A wheel without it could load no profile."""
    text = (SCRIPT.parents[1] / "pyproject.toml").read_text()
    assert '"settings/*.json"' in text
    code = "import sys, r1kit.settings.trl_keys as t; print(len(t.keys('sft')), 'trl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(json.loads(trl_keys.FILE.read_text())["sft"])), "False"]


def test_hints_speak_only_of_keys_that_exist_or_no_longer_exist() -> None:
    known = {key for section in ("base", "sft", "grpo") for key in known_keys(section)}
    everything = known | {key for config in trl_keys.CLASSES for key in trl_keys.keys(config)}
    assert not set(RENAMED) & known
    assert {nearest for nearest, _ in RENAMED.values()} - {""} <= known
    assert set(BOUNDS) <= known
    assert set(REFUSED) - {"logging_dir"} <= everything
    assert not set(REFUSED) & known
