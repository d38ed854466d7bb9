"""pipeline.yaml: what may stand in it, what is said about what may not, and which settings a stage gets."""

import shutil

import pytest

from r1kit.settings import SettingsError, load_profile, profile_names
from r1kit.settings.profile import CONFIG_ROOT, pipeline_profile, stage_profiles

PIPELINES = """\
pipelines:
  r1:
    about: a short one
    set: &shared {data.traces: 500}
    stages:
      - {name: cold_start, kind: sft, set: {sft.max_steps: 50}}
      - {name: reasoning, kind: grpo, model: cold_start}
      - {name: sampled, kind: rejection_sampling, model: reasoning, max_new_tokens: 64}
      - {name: union, kind: merge_data, data: [sampled, traces]}
      - {name: sft, kind: sft, data: union}
      - {name: final, kind: grpo, model: sft, set: {grpo.max_steps: 30}}
      - {name: judged, kind: evaluate, models: [base, reasoning, final]}
  r1-zero:
    set: *shared
    stages:
      - {name: zero, kind: grpo, model: base}
      - {name: judged, kind: evaluate, models: [base, zero]}
"""


@pytest.fixture
def profile(profile_folder):
    (profile_folder / "pipeline.yaml").write_text(PIPELINES)
    return profile_folder


def complaint(profile, old, new):
    """What is said of pipeline.yaml with one text replaced."""
    assert old in PIPELINES
    (profile / "pipeline.yaml").write_text(PIPELINES.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        load_profile(profile)
    return str(caught.value)


def test_a_profile_may_have_no_pipelines(profile_folder):
    assert load_profile(profile_folder).pipeline is None
    with pytest.raises(SettingsError, match=r"has no pipeline\.yaml"):
        pipeline_profile(profile_folder, {}, "r1")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("model: reasoning", "model: reasonning", ["stages.2.model", "Did you mean `reasoning`?"]),
        ("model: cold_start", "model: final", ["final comes later", "base, cold_start"]),
        ("model: cold_start", "model: reasoning", ["cannot depend on itself"]),
        ("model: reasoning", "model: traces", ["traces is not a model"]),
        ("data: union", "data: reasoning", ["reasoning (grpo) makes no dataset", "union"]),
        ("data: union", "data: prompts", ["prompts is not a dataset of traces"]),
        ("models: [base, reasoning, final]", "models: [union]", ["union (merge_data) trains no model"]),
        ("models: [base, reasoning, final]", "models: [base, base]", ["written twice"]),
        ("kind: merge_data", "kind: merge", ["stages.3.kind", "merge_data", "Did you mean `merge_data`?"]),
        ("kind: grpo, model: sft,", "kind: grpo,", ["stages.5.model", "missing"]),
        ("max_new_tokens: 64", "max_tokens: 64", ["stages.2.max_tokens", "Unknown key", "max_new_tokens"]),
        ("max_new_tokens: 64", "max_new_tokens: 0", ["greater than 0"]),
        ("name: union", "name: Union", ["stages.3.name"]),
        ("name: union", "name: traces", ["means something else"]),
        ("name: sft,", "name: union,", ["An earlier stage has this name"]),
        ("{grpo.max_steps: 30}", "{sft.max_steps: 30}", ["kind grpo does not read it", "grpo.…"]),
        ("{grpo.max_steps: 30}", "{data.traces: 30}", ["r1's own `set`"]),
    ],
)
def test_a_wrong_pipeline_is_explained(profile, old, new, parts):
    said = complaint(profile, old, new)
    assert "pipeline.yaml" in said
    for part in parts:
        assert part in said


CHOSEN = """\
pipelines:
  chosen:
    stages:
      - {name: measured, kind: pass_rate, model: base, max_new_tokens: 64}
      - {name: zero, kind: grpo, model: base, data: measured}
"""


def test_grpo_may_train_on_the_prompts_that_a_stage_before_has_chosen(profile_folder):
    (profile_folder / "pipeline.yaml").write_text(CHOSEN)
    (measured, zero) = load_profile(profile_folder).pipeline.pipelines["chosen"].stages
    assert (measured.lowest, measured.highest, measured.samples) == (0.1, 0.6, 8)
    assert zero.sources() == {"model": "base", "data": "measured"}


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("data: measured", "data: traces", ["traces is not a dataset of prompts", "prompts, measured"]),
        ("data: measured", "data: mesured", ["no such stage", "Did you mean `measured`?"]),
        ("kind: grpo", "kind: sft", ["measured (pass_rate) makes no dataset of traces"]),
        ("max_new_tokens: 64", "max_new_tokens: 64, lowest: 0.7", ["stages.0.lowest", "from 0.7 to 0.6"]),
    ],
)
def test_wrongly_chosen_prompts_are_explained(profile_folder, old, new, parts):
    (profile_folder / "pipeline.yaml").write_text(CHOSEN.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        load_profile(profile_folder)
    assert all(part in str(caught.value) for part in parts)


LONG = """\
pipelines:
  long:
    stages:
      - {name: measured, kind: pass_rate, model: base, max_new_tokens: 32000}
      - {name: judged, kind: evaluate, models: [base], set: {evaluation.max_new_tokens: 32000}}
"""


def test_answers_of_a_stage_fit_the_context_with_their_prompts(tmp_path):
    folder = tmp_path / "h200-8"
    shutil.copytree(CONFIG_ROOT / "h200-8", folder)
    (folder / "pipeline.yaml").write_text(LONG)
    with pytest.raises(SettingsError) as caught:
        load_profile(folder)
    said = str(caught.value)
    assert "pipelines.long.stages.0.max_new_tokens" in said
    assert "at most 31744" in said
    assert "evaluation.max_new_tokens: 31744 or less" in said


def test_a_length_said_later_takes_the_place_of_the_other(profile):
    epochs = {"pipeline.r1.cold_start.sft.num_train_epochs": 1, "sft.max_steps": 70}
    stages = stage_profiles(profile, epochs, "r1")
    assert "max_steps" not in stages["cold_start"].sft.trl
    assert stages["cold_start"].sft.trl["num_train_epochs"] == 1
    assert stages["sft"].sft.trl["max_steps"] == 70


def test_a_stage_that_nothing_uses_is_worth_a_warning(profile):
    text = PIPELINES.replace("data: union", "data: traces", 1)
    (profile / "pipeline.yaml").write_text(text)
    (warning,) = [w for w in load_profile(profile).warnings if w.rule == "composed_stages_are_used"]
    assert warning.key == "pipelines.r1.stages.3.name"


def test_the_last_that_speaks_wins(profile):
    stages = stage_profiles(profile, {"sft.max_steps": 70, "data.prompts": 99}, "r1")
    assert stages["sft"].data.traces == 500  # the pipeline, over the file
    assert stages["sft"].sft.trl["max_steps"] == 70  # the user, over the file
    assert stages["cold_start"].sft.trl["max_steps"] == 50  # the stage, over the user
    assert stages["cold_start"].data.prompts == 99


@pytest.mark.parametrize(
    ("override", "value", "read"),
    [
        ("pipeline.r1.final.grpo.max_steps", 3, lambda p: p["final"].grpo.trl["max_steps"]),
        ("pipeline.r1.set.data.traces", 3, lambda p: p["final"].data.traces),
        ("pipeline.r1.final.grpo.collapse", None, lambda p: p["final"].grpo.collapse),
    ],
)
def test_an_override_reaches_into_a_stage(profile, override, value, read):
    assert read(stage_profiles(profile, {override: value}, "r1")) == value


def test_an_override_of_one_pipeline_leaves_those_that_share_its_lines_alone(profile):
    loaded = load_profile(profile, {"pipeline.r1.set.data.traces": 3})
    assert loaded.pipeline.pipelines["r1"].set == {"data.traces": 3}
    assert loaded.pipeline.pipelines["r1-zero"].set == {"data.traces": 500}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("pipeline.r2.final.samples", ["no such pipeline", "r1, r1-zero"]),
        ("pipeline.r1.finale.samples", ["no such stage", "Did you mean `final`?"]),
        ("pipeline.r1.final", ["pipeline.r1.<stage>.<key>"]),
        ("pipeline.r1.final.samples", ["Unknown key"]),
    ],
)
def test_an_override_without_a_place_is_explained(profile, override, parts):
    with pytest.raises(SettingsError) as caught:
        load_profile(profile, {override: 1})
    assert all(part in str(caught.value) for part in parts)


def test_a_wrong_value_in_a_stage_names_stage_file_and_key(profile):
    overrides = {"pipeline.r1.final.grpo.max_stepz": 3, "pipeline.r1.cold_start.sft.max_length": 4000}
    with pytest.raises(SettingsError) as caught:
        stage_profiles(profile, overrides, "r1")
    said = str(caught.value)
    assert "pipelines.r1.stages.5.set" in said
    assert "grpo.yaml" in said
    assert "Did you mean `max_steps`?" in said
    assert "in the stage cold_start" in said


def test_the_rules_judge_a_stage_by_its_place(profile):
    """GRPO from the base model is R1-Zero, whatever grpo.yaml says of its own lesson."""
    assert stage_profiles(profile, {}, "r1-zero")["zero"].grpo.model["model_name_or_path"] == "01_data"
    assert stage_profiles(profile, {}, "r1")["final"].grpo.model["model_name_or_path"] == "02_sft"


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_pipeline_is_sound(name):
    loaded = load_profile(name)
    for pipeline in loaded.pipeline.pipelines if loaded.pipeline else ():
        assert stage_profiles(name, {}, pipeline)
    assert not [w for w in loaded.warnings if w.rule.startswith("composed")]
