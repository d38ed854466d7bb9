"""Where this machine runs model-written programs: for `run.json`, and as a line of the doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r1kit.sandbox import tiers

if TYPE_CHECKING:
    from r1kit.machine.checks import Check
    from r1kit.settings import Profile
    from r1kit.settings.machine import SandboxSettings

CODE_REWARDS = ("code", "binary_code", "naive_code")


def record(settings: SandboxSettings) -> dict[str, Any]:
    """`{"tier", "reason"}` of the isolation in use; the tier is None where nothing works, and why."""
    try:
        tier = tiers.choose(settings.tier, unsafe=settings.unsafe, fork_server=settings.fork_server)
    except LookupError as error:
        return {"tier": None, "reason": str(error)}
    return {"tier": tier.name, "reason": tier.reason}


def check(profile: Profile) -> Check:
    """Whether programs can be isolated: a must where the profile rewards code, else a warning."""
    from r1kit.machine.checks import Check  # needs psutil, which a broker is without

    found = record(profile.machine.sandbox)
    tier, reason = found["tier"], found["reason"]
    want = tiers.BUBBLEWRAP
    if tier is None:
        needed = any(reward.name in CODE_REWARDS for reward in profile.grpo.rewards)
        level = "fail" if needed or profile.grpo.programs else "warn"
        return Check("sandbox", False, "none", want, f"{reason}; as root: apt-get install bubblewrap", level)
    if tier == want or profile.machine.sandbox.tier == tier:
        return Check("sandbox", True, f"{tier} ({reason})")
    do = "it is good enough to go on; stronger with bubblewrap (as root: apt-get install bubblewrap)"
    return Check("sandbox", False, f"{tier} ({reason})", want, do, "warn")
