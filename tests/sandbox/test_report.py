"""What the doctor and run.json say of the sandbox."""

from __future__ import annotations

import pytest

from r1kit.sandbox import tiers
from r1kit.settings import load_profile
from r1kit.settings.machine import SandboxSettings


def nothing_works(name: str, *, fork_server: bool = False) -> tiers.Tier:
    return tiers.Tier(name, False, "not on this planet")


def only_landlock(name: str, *, fork_server: bool = False) -> tiers.Tier:
    return tiers.Tier(name, name == "landlock", "ABI 7" if name == "landlock" else "not installed")


def test_the_record_names_the_tier_and_why():
    found = tiers.record(SandboxSettings())
    assert found["tier"] in tiers.NAMES
    assert "Python 3" in found["reason"]


def test_a_machine_without_isolation_fails_a_profile_that_judges_code(monkeypatch):
    monkeypatch.setattr(tiers, "try_tier", nothing_works)
    profile = load_profile("cpu-tiny")
    line = tiers.check(profile)
    assert line.level == "fail"
    assert "bubblewrap: not on this planet" in line.do
    assert "apt-get install bubblewrap" in line.do
    without = load_profile("cpu-tiny", {"grpo.programs": None})
    assert tiers.check(without).level == "warn"
    coding = load_profile("cpu-tiny", {"grpo.programs": None, "grpo.rewards": [{"name": "code"}]})
    assert tiers.check(coding).level == "fail"
    assert tiers.record(SandboxSettings()) == {"tier": None, "reason": line.do.split("; as root")[0]}


def test_a_weaker_tier_is_a_warning_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(tiers, "try_tier", only_landlock)
    assert tiers.check(load_profile("cpu-tiny")).level == "warn"
    assert tiers.check(load_profile("cpu-tiny", {"machine.sandbox": {"tier": "landlock"}})).ok


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_unsafe_is_recorded_as_what_it_is(monkeypatch, tier):
    monkeypatch.setattr(tiers, "try_tier", nothing_works)
    found = tiers.record(SandboxSettings(tier=tier, unsafe=True))
    assert found["tier"] == "unsafe"
    assert "no isolation" in found["reason"]
