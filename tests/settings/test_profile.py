"""Profiles load, take overrides, and come apart into what the trainers take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from r1kit.settings import (
    SettingsError,
    load_profile,
    parse_override,
    parse_overrides,
    profile_names,
    resolved_section,
    settings_hash,
    yaml_dump,
    yaml_load,
)
from r1kit.settings.profile import CONFIG_ROOT


def test_a_profile_loads_by_path_and_by_name(profile_folder: Path) -> None:
    by_path = load_profile(profile_folder)
    by_name = load_profile("tiny", config_root=profile_folder.parent)
    assert by_path == by_name
    assert by_path.name == "tiny"
    assert by_path.machine.environment["OMP_NUM_THREADS"] == "2"
    assert by_path.sft.trl["learning_rate"] == 4e-3
    assert by_path.sft.model == {"model_name_or_path": "01_data"}
    assert by_path.grpo.rewards[1].weight == 0.2
    assert "model_name_or_path" not in by_path.sft.trl


@pytest.mark.parametrize("name", profile_names())
def test_the_shipped_profiles_load(name: str) -> None:
    assert load_profile(name).name == name


def test_a_profile_without_a_base_model_of_its_own_loads(profile_folder: Path, tmp_path: Path) -> None:
    (profile_folder / "base.yaml").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 4096}')
    profile = load_profile(profile_folder, {"sft.model_name_or_path": str(tmp_path / "model")})
    assert profile.base is None
    assert "base" not in profile.dump()
    with pytest.raises(SettingsError, match="at most 4096"):
        load_profile(
            profile_folder, {"sft.model_name_or_path": str(tmp_path / "model"), "sft.max_length": 5000}
        )


def test_overrides_replace_values_and_are_checked_like_them(profile_folder: Path) -> None:
    overrides = {"sft.learning_rate": 1e-3, "base.architecture.hidden_size": 64, "grpo.rewards.1.weight": 0.5}
    profile = load_profile(profile_folder, overrides)
    assert profile.sft.trl["learning_rate"] == 1e-3
    assert profile.base.architecture.hidden_size == 64
    assert profile.grpo.rewards[1].weight == 0.5
    assert profile.overrides == overrides
    assert load_profile(profile_folder).sft.trl["learning_rate"] == 4e-3


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ({"sft.lerning_rate": 1.0}, "lerning_rate", "Did you mean `learning_rate`?"),
        ({"sft.learning_rate": "fast"}, "learning_rate", "a number"),
        ({"stf.learning_rate": 1.0}, "stf.learning_rate", "Did you mean `sft`?"),
        ({"sft": 1.0}, "sft", "Unknown section"),
        ({"sft.learning_rate.x": 1.0}, "sft.learning_rate.x", "does not hold other keys"),
        ({"grpo.rewards.7.weight": 1.0}, "grpo.rewards.7.weight", "does not hold other keys"),
        ({"grpo.num_generations": 7}, "per_device_train_batch_size", "multiple of 7"),
    ],
)
def test_a_bad_override_is_an_error(override: dict, key: str, says: str, profile_folder: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_profile(profile_folder, override)
    assert [problem.key for problem in error.value.problems] == [key]
    assert says in str(error.value)
    if key in next(iter(override)):
        assert "override" in error.value.problems[0].file


def test_an_override_of_a_missing_base_is_an_error(profile_folder: Path) -> None:
    (profile_folder / "base.yaml").unlink()
    with pytest.raises(SettingsError, match=r"has no base\.yaml"):
        load_profile(profile_folder, {"base.max_steps": 3})


def test_override_texts_are_read_as_yaml() -> None:
    assert parse_override("sft.learning_rate=1e-3") == ("sft.learning_rate", 1e-3)
    assert parse_override("sft.report_to=[none]") == ("sft.report_to", ["none"])
    assert parse_override("sft.run_name=a=b") == ("sft.run_name", "a=b")
    assert parse_overrides(["sft.seed=1", "sft.seed=2"]) == {"sft.seed": 2}


@pytest.mark.parametrize("text", ["sft.learning_rate", "learning_rate=3", "=3", "sft.=3", "sft.a=[1"])
def test_a_malformed_override_says_the_form(text: str) -> None:
    with pytest.raises(SettingsError, match=r"sft\.learning_rate=1e-3|a YAML value"):
        parse_override(text)
    with pytest.raises(SettingsError) as error:
        parse_overrides([text, "also wrong"])
    assert len(error.value.problems) == 2


def test_what_is_dumped_reads_back_as_the_same_settings(profile_folder: Path, tmp_path: Path) -> None:
    profile = load_profile(profile_folder, {"sft.learning_rate": 1e-6})
    copy = tmp_path / "copy"
    copy.mkdir()
    for section, values in profile.dump().items():
        (copy / f"{section}.yaml").write_text(yaml_dump(values))
    (copy / "accelerate.yaml").write_text(profile.accelerate_yaml())
    again = load_profile(copy)
    assert again.dump() == profile.dump()
    assert again.accelerate == profile.accelerate
    assert yaml_load(yaml_dump(profile.dump())) == profile.dump()


def test_a_trainer_section_comes_apart_into_trainer_model_and_own_keys(profile_folder: Path) -> None:
    resolved = yaml_load(yaml_dump(load_profile(profile_folder).dump()))
    own = resolved_section("sft", resolved["sft"])
    assert own.trl["max_length"] == 256
    assert own.model == {"model_name_or_path": "01_data"}
    assert own.optimizer == "muon"
    assert own.row_packing
    assert not set(own.trl) & {"optimizer", "row_packing", "model_name_or_path"}
    assert resolved_section("base", resolved["base"]).architecture.num_hidden_layers == 3


def test_sections_of_resolved_yaml_read_back_as_the_same_settings(profile_folder: Path) -> None:
    profile = load_profile(profile_folder, {"grpo.algorithm": "dapo"})
    resolved = yaml_load(yaml_dump(profile.dump()))
    for section, values in resolved.items():
        assert resolved_section(section, values) == getattr(profile, section)
    for wrong in ({"max_seq_length": 3}, {"row_packing": "yes"}):
        with pytest.raises(SettingsError) as error:
            resolved_section("sft", {**resolved["sft"], **wrong})
        assert [problem.key for problem in error.value.problems] == list(wrong)
        assert "resolved.yaml" in error.value.problems[0].file


def test_the_hash_follows_values_and_not_their_order(profile_folder: Path) -> None:
    profile = load_profile(profile_folder)
    path = profile_folder / "sft.yaml"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert settings_hash(load_profile(profile_folder)) == settings_hash(profile)
    changed = load_profile(profile_folder, {"sft.learning_rate": 1e-3})
    assert settings_hash(changed) != settings_hash(profile)
    assert settings_hash(changed, ["data", "grpo"]) == settings_hash(profile, ["data", "grpo"])


def test_loading_a_profile_does_not_load_torch(profile_folder: Path) -> None:
    program = (
        "import sys, r1kit.settings.lessons, r1kit.machine.doctor\n"
        "from r1kit.settings import load_profile; "
        f"load_profile({str(profile_folder)!r}); "
        "print([name for name in ('torch', 'transformers', 'trl', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_notebook_shows_the_message_without_a_traceback(profile_folder: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_profile(profile_folder, {"sft.lerning_rate": 1})
    lines = error.value._render_traceback_()
    assert lines[0].startswith("SettingsError: 1 problem in profile tiny")
    assert not any("Traceback" in line for line in lines)
    assert "nothing was started" in lines[0]


def test_named_profiles_are_the_folders_of_configs(profile_folder: Path) -> None:
    assert profile_names(profile_folder.parent) == ["tiny"]
    assert "cpu-tiny" in profile_names()
    assert CONFIG_ROOT.name == "configs"
