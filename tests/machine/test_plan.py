"""The plan's arithmetic held to published figures, to the guide's own, and to what cpu-tiny did."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from r1kit.machine.plan import Plan, make_plan
from r1kit.machine.plan.hours import generate_seconds
from r1kit.machine.plan.inputs import Generation, Speeds, Training, device_of, training_of
from r1kit.machine.plan.memory import logit_bytes, score_bytes, smaller, states, suggest, training_memory
from r1kit.machine.speed import DEVICES, find_device
from r1kit.settings import SettingsError, load_profile, profile_names
from r1kit.settings.known_models import KNOWN_MODELS

KINDS = ["weights", "gradients", "optimizer", "activations", "logits", "margin", "total"]


@pytest.fixture(scope="module")
def ours() -> Plan:
    return make_plan(load_profile("mi350x-8"))


@pytest.fixture(scope="module")
def guide() -> Plan:
    return make_plan(load_profile("mi350x-8-seed"))


def test_zero_2_on_8_devices_holds_28_6_gb_of_states(ours: Plan) -> None:
    for stage in ours.stages.values():
        assert stage.training.zero == 2
        assert stage.training.devices == 8
        assert stage.memory.states == pytest.approx(28.6e9, rel=0.02)


@pytest.mark.parametrize(
    ("engine", "zero", "gigabytes"), [("deepspeed", 0, 121.8), ("deepspeed", 2, 28.6), ("deepspeed", 3, 15.2)]
)
def test_states_of_7_6_billion_parameters_by_stage(engine: str, zero: int, gigabytes: float) -> None:
    training = replace(training_of(load_profile("mi350x-8"), "sft"), engine=engine, zero=zero)
    assert sum(states(training)) == pytest.approx(gigabytes * 1e9, rel=0.005)


def test_lora_trains_adapters_and_keeps_weights_once() -> None:
    training = training_of(load_profile("gpu-small"), "sft")
    weights, gradients, optimizer = states(training)
    # r = 32 on every linear layer: 28 layers x 32 x (inputs + outputs) = 36.9 million parameters.
    assert training.adapter == 28 * 32 * (2 * 1536 * 2 + 2 * (1536 + 256) + 3 * (1536 + 8960))
    assert gradients == 4 * training.adapter
    assert optimizer == 8 * training.adapter
    assert weights == 2 * training.model.parameters + 4 * training.adapter


def test_the_guides_eager_attention_keeps_986_gb_of_scores() -> None:
    """Eight rows of 5,120 tokens: 35 GB a layer, 28 layers, no checkpointing."""
    profile = load_profile("mi350x-8")
    training = replace(training_of(profile, "grpo"), attention="eager", rows=8, row=5120, checkpointing=False)
    assert score_bytes(training) == pytest.approx(35.2e9, rel=0.01)
    assert 28 * score_bytes(training) == pytest.approx(986e9, rel=0.01)
    device = device_of(profile)

    def fits(other: Training) -> bool:
        return training_memory(other, device).total <= device.memory

    assert not fits(training)
    (change,) = suggest(training, fits)
    assert change.startswith("grpo.gradient_checkpointing=true")


def test_logits_are_never_whole() -> None:
    """A row of 16,384 tokens would be 10 GB of float32 logits; TRL's tile is half of one."""
    training = replace(training_of(load_profile("mi350x-8"), "sft"), rows=1, row=16384)
    head = 152064 * 3584 * 4
    assert logit_bytes(training) == pytest.approx(4096 * 32768 * 4 + head + 16384 * 3584 * 4)
    assert logit_bytes(training) < 16384 * 152064 * 4 / 2.5


def test_the_guides_hours_and_mfu_follow(guide: Plan) -> None:
    assert guide.sft.hours == pytest.approx(15.0, abs=0.05)
    assert guide.sft.mfu == pytest.approx(0.091, abs=0.0005)
    assert guide.sft.mfu_full_attention == pytest.approx(0.096, abs=0.0005)
    assert guide.sft.hfu == pytest.approx(0.121, abs=0.001)
    assert guide.sft.tokens == pytest.approx(2.02e9, rel=0.005)
    assert guide.sft.tokens_per_second == pytest.approx(37_449, rel=0.001)


@pytest.mark.parametrize(("device", "seconds"), [("mi350x", 34), ("h200", 57)])
def test_generation_takes_what_the_step_model_of_the_literature_says(device: str, seconds: float) -> None:
    """512 rollouts of 0 to 8k tokens, 64 a device, at 60% of the bandwidth: 34 s on MI350X, 57 s on H200."""
    training = training_of(load_profile("mi350x-8"), "grpo")
    row = DEVICES[device]
    speeds = Speeds(row.matrix, 0.35, row.bandwidth, 0.6, 0.0)
    generation = Generation("colocate", 8, 1, 0.3, 2, 512, 256, 8192, 4096, 8192)
    assert generate_seconds(generation, training, speeds, 10**9)[0] == pytest.approx(seconds, rel=0.05)


def test_the_cache_holds_what_vendors_say() -> None:
    """Keys and values of Qwen2.5-7B take 57,344 bytes a token."""
    assert KNOWN_MODELS["Qwen/Qwen2.5-7B"].cache_bytes_per_token == 57_344


def test_memory_of_cpu_tiny_agrees_with_what_it_took() -> None:
    """Peak resident memory of both programs with accelerate's launcher, 2026-11-24, two cores."""
    plan = make_plan(load_profile("cpu-tiny"))
    assert plan.stages["sft"].memory.total == pytest.approx(1_070_809_088, rel=0.2)
    assert plan.stages["grpo"].memory.total + plan.server.total == pytest.approx(1_414_156_288, rel=0.2)


def test_steps_of_cpu_tiny_agree_with_what_they_took() -> None:
    """Medians of a whole run while nothing else computed (2026-11-24, two cores, 183 GFLOP/s in matrices);
    1,021,711 tokens in SFT's 420 steps.
    """
    plan = make_plan(load_profile("cpu-tiny"))
    assert plan.grpo.step_seconds == pytest.approx(1.254, rel=0.1)
    assert plan.sft.step_seconds == pytest.approx(0.212, rel=0.1)
    assert plan.sft.tokens == pytest.approx(1_021_711, rel=0.02)
    assert plan.sft.fill == pytest.approx(0.9, abs=0.02)


def test_a_slower_cpu_takes_longer_in_proportion() -> None:
    profile = load_profile("cpu-tiny")
    half = make_plan(profile, gflops=profile.machine.reference_gflops / 2)
    assert half.sft.step_seconds == pytest.approx(2 * make_plan(profile).sft.step_seconds)
    assert half.grpo.step_seconds == pytest.approx(2 * make_plan(profile).grpo.step_seconds, rel=0.01)


def test_two_processes_share_one_machines_cores() -> None:
    alone = make_plan(load_profile("cpu-cluster", {"accelerate.num_processes": 1}))
    both = make_plan(load_profile("cpu-cluster"))
    assert both.stages["grpo"].training.devices == 2
    assert both.stages["sft"].training.devices == 1, "its sft.yaml says alone"
    assert both.sft.step_seconds == alone.sft.step_seconds
    one, other = (plan.stages["grpo"].training.rows / plan.grpo.learn_seconds for plan in (alone, both))
    assert other == pytest.approx(one / 2)


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_fits_and_has_the_names_that_programs_read(name: str) -> None:
    plan = make_plan(load_profile(name)).as_dict()
    json.dumps(plan)
    trainer = plan["trainer"]
    assert trainer["fits"]
    assert plan["server"]["fits"]
    assert list(trainer["per_device_bytes"]) == KINDS
    assert trainer["per_device_bytes"]["total"] == sum(trainer["per_device_bytes"][k] for k in KINDS[:-1])
    assert {"tokens", "steps", "hours", "mfu"} <= set(plan["sft"])
    assert {"steps", "step_seconds", "hours"} <= set(plan["grpo"])
    for stage in ("sft", "grpo"):
        assert plan[stage]["roofline_seconds"] < plan[stage]["step_seconds"]


def test_what_does_not_fit_names_the_nearest_change_that_does() -> None:
    """Full training of 7.6 billion parameters on one H200, 32k tokens a row."""
    changes = {
        "sft.model_name_or_path": "open-r1/Qwen2.5-Math-7B-RoPE-300k",
        "sft.dtype": "bfloat16",
        "sft.max_length": 32768,
        "sft.gradient_checkpointing": False,
    }
    plan = make_plan(load_profile("h200-1", changes))
    assert not plan.stages["sft"].fits
    assert plan.stages["sft"].nearest[0].startswith("sft.gradient_checkpointing=true")
    setting, value = plan.stages["sft"].nearest[0].split(" ")[0].split("=")
    assert make_plan(load_profile("h200-1", changes | {setting: value == "true"})).stages["sft"].fits


def test_a_change_is_found_even_where_one_is_not_enough() -> None:
    training = replace(
        training_of(load_profile("mi350x-8"), "sft"), attention="eager", checkpointing=False, rows=8
    )
    device = DEVICES["h100"]

    def fits(other: Training) -> bool:
        return training_memory(other, device).total <= device.memory

    pile = suggest(training, fits)
    keys = [change.split("=")[0].removeprefix("sft.") for change in pile]
    assert keys == ["attn_implementation", "gradient_checkpointing", "per_device_train_batch_size"]
    rows = int(pile[-1].split(",")[0].split("=")[1])
    assert fits(replace(training, attention="flash", checkpointing=True, rows=rows))
    assert not fits(replace(training, attention="flash", checkpointing=True))


def test_less_memory_is_planned_with_every_change() -> None:
    training = replace(training_of(load_profile("h200-1"), "grpo"), checkpointing=False)
    before = training_memory(training, DEVICES["h200"]).total
    for variants in smaller(training).values():
        for change, after in variants:
            assert training_memory(after, DEVICES["h200"]).total < before, change


def test_a_profile_without_a_device_says_what_the_table_has() -> None:
    with pytest.raises(SettingsError, match="mi300x, mi325x, mi350x"):
        make_plan(load_profile("h200-8", {"machine.accelerator": None}))


def test_a_model_that_nothing_describes_is_refused() -> None:
    with pytest.raises(SettingsError, match="the model's shape"):
        make_plan(load_profile("h200-8", {"sft.model_name_or_path": "somebody/unknown-13b"}))


def test_devices_are_found_by_the_names_that_drivers_say() -> None:
    names = {
        "AMD Instinct MI350X": "mi350x",
        "AMD Instinct MI300X OAM": "mi300x",
        "AMD Instinct MI355X": "mi355x",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "NVIDIA B200": "b200",
        "NVIDIA L4": "l4",
    }
    for name, key in names.items():
        assert find_device(name) is DEVICES[key]
    # Weaker cards of nearly the same name, whose peaks we do not have, and whole systems.
    for name in ("NVIDIA H100 NVL", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA GB200", "NVIDIA L40S", ""):
        assert find_device(name) is None


def test_settings_know_the_same_devices_as_the_table() -> None:
    from typing import get_args

    from r1kit.settings.machine import AcceleratorName

    assert set(get_args(AcceleratorName)) == set(DEVICES)
    assert all(row.source and row.shares_source for row in DEVICES.values())


def test_a_plan_takes_less_than_three_seconds_of_processor_and_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['r1kit', 'plan', '--profile', 'mi350x-8', '--json']\n"
        "from r1kit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["trainer"]["devices"] == 8
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 3
