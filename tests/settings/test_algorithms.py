"""`algorithm: gspo` is GSPO, whatever stands beside it; what a curriculum needs is checked first."""

from __future__ import annotations

import pytest

from r1kit.settings import SettingsError, load_profile, resolved_section
from r1kit.settings.training import DEFINING, GrpoSettings, expand

KEYS = ("loss_type", "importance_sampling_level", "scale_rewards", "epsilon", "epsilon_high")


def trl(**changes) -> dict:
    return load_profile("cpu-tiny", {f"grpo.{key}": value for key, value in changes.items()}).grpo.trl


def refused(**changes) -> str:
    with pytest.raises(SettingsError) as error:
        trl(**changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("grpo", ("grpo", "token", "group", None, None)),
        ("dr_grpo", ("dr_grpo", "token", "none", None, None)),
        ("dapo", ("dapo", "token", None, 0.2, 0.28)),
        ("gspo", ("grpo", "sequence", None, 3e-4, 4e-4)),
        ("cispo", ("cispo", "token", None, None, 5.0)),
    ],
)
def test_a_name_stands_for_trls_keys(name, keys):
    assert tuple(trl(algorithm=name).get(key) for key in KEYS) == keys


def test_every_name_is_explained_and_none_changes_nothing():
    assert all(f"`{name}`" in expand.__doc__ for name in DEFINING)
    assert trl().keys() == trl(algorithm=None).keys()
    assert GrpoSettings.model_fields["algorithm"].default is None


def test_bounds_of_the_file_win_and_what_makes_the_algorithm_does_not():
    assert trl(algorithm="dapo", epsilon_high=0.4)["epsilon_high"] == 0.4
    message = refused(algorithm="gspo", loss_type="dapo")
    assert "algorithm: gspo is loss_type: grpo" in message
    assert "scale_rewards" in refused(algorithm="dr_grpo", scale_rewards=True)
    assert trl(algorithm="dr_grpo", scale_rewards=False)["scale_rewards"] is False


def test_an_override_takes_the_place_of_the_files_algorithm():
    """The file says loss_type: dapo; `--set grpo.algorithm=gspo` must not ask the reader to edit it."""
    assert trl()["loss_type"] == "dapo"
    assert trl(algorithm="gspo")["loss_type"] == "grpo"


def test_what_a_program_reads_says_the_same():
    profile = load_profile("cpu-tiny", {"grpo.algorithm": "gspo", "grpo.epsilon": 1e-3})
    read = resolved_section("grpo", profile.dump()["grpo"])
    assert read.trl == profile.grpo.trl
    assert read.algorithm == "gspo"


def length(*stages: tuple[int, int]) -> dict:
    lengths = [{"step": step, "max_completion_length": tokens} for step, tokens in stages]
    return {"curriculum": {"strategy": "length", "lengths": lengths}}


def test_length_stages_rise_to_the_limit_within_the_training():
    assert trl(**length((0, 32), (20, 64)))["max_completion_length"] == 64
    assert "strategy: length needs its stages" in refused(**length())
    assert "Stages begin at step 0" in refused(**length((5, 32), (20, 64)))
    assert "Stages begin at step 0" in refused(**length((0, 64), (20, 64)))
    assert "The last stage is 32 tokens long" in refused(**length((0, 16), (20, 32)))
    assert "would never begin" in refused(**length((0, 32), (63, 64)))
    stages = length((0, 64))["curriculum"] | {"strategy": "pass_rate"}
    assert "They have no effect" in refused(curriculum=stages)


def test_a_constant_divisor_under_stages_is_pointed_out():
    changes = {f"grpo.{key}": value for key, value in length((0, 32), (20, 64)).items()}
    (warning,) = load_profile("cpu-tiny", changes | {"grpo.algorithm": "dr_grpo"}).warnings
    assert "dr_grpo divides by max_completion_length in all stages" in warning.message


def test_a_curriculum_reads_a_reward_that_is_there():
    assert "does not have" in refused(curriculum={"strategy": "pass_rate", "reward": "cosine"})


def test_replaced_groups_need_prompts_and_whole_groups_on_a_process():
    with pytest.raises(SettingsError, match="up to 16 in addition"):
        load_profile("cpu-tiny", {"grpo.dynamic_sampling": {"max_extra": 2.0}, "data.prompts": 16})
    two = {"accelerate.num_processes": 2, "accelerate.distributed_type": "MULTI_GPU"}
    three_groups = two | {"grpo.per_device_train_batch_size": 24}
    load_profile("cpu-tiny", three_groups)
    with pytest.raises(SettingsError, match="no whole groups of 16"):
        load_profile("cpu-tiny", three_groups | {"grpo.dynamic_sampling": {}})
