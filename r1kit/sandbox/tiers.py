"""Which isolation works on this machine, found by trying; for `Sandbox`, `run.json` and the doctor.

Version numbers do not tell what a kernel, a container runtime and a distribution allow (Ubuntu's AppArmor,
docker's seccomp profile, a masked /proc). So each tier runs a program that tries what must not work there.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r1kit.sandbox.broker import Broker, BrokerError, Configuration
from r1kit.sandbox.enclosure import BUBBLEWRAP, LANDLOCK, NO_PROC, UNSAFE, bubblewrap_path
from r1kit.sandbox.execution import Limits, Request, Verdict
from r1kit.sandbox.kernel import filter_supported, landlock_version

if TYPE_CHECKING:
    from r1kit.machine.doctor import Check
    from r1kit.settings import Profile
    from r1kit.settings.machine import SandboxSettings

NAMES = (BUBBLEWRAP, NO_PROC, LANDLOCK)
_PROBE = """
import json, os, socket, sys, threading
told, wrong = json.load(sys.stdin), []
def must_fail(name, action):
    try:
        action()
    except OSError:
        return
    wrong.append(name)
def start_process():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
must_fail("read a file of the host", lambda: open(told["file"]).close())
must_fail("write a file of the host", lambda: open(told["file"], "w").close())
must_fail("make a file on the host", lambda: open(told["file"] + "x", "w").close())
must_fail("open a socket", lambda: socket.socket().close())
must_fail("start a process", start_process)
if told["pid"] > 1000:
    must_fail("see a process of the host", lambda: os.kill(told["pid"], 0))
threads = []
thread = threading.Thread(target=lambda: threads.append(len(os.urandom(8))))
thread.start()
thread.join()
wrong += [] if threads == [8] else ["run a thread"]
print(json.dumps(wrong))
"""
_PROBE_LIMITS = Limits(cpu_seconds=10, wall_seconds=30)


CODE_REWARDS = ("code", "binary_code", "naive_code")
_lock = threading.Lock()
_found: dict[tuple, Tier] = {}


@dataclass(frozen=True)
class Tier:
    """A tier of isolation on this machine: whether it works, and the reason in words."""

    name: str
    available: bool
    reason: str
    interpreter: str = ""
    bubblewrap: str = ""


def probe(*, fork_server: bool = False) -> list[Tier]:
    """Try every tier, strongest first (about a quarter of a second)."""
    return [try_tier(name, fork_server=fork_server) for name in NAMES]


def choose(name: str = "auto", *, unsafe: bool = False, fork_server: bool = False) -> Tier:
    """Return the strongest tier that works, or the named one.

    unsafe: if none works, return the tier with resource limits only.

    Raises:
        ValueError: there is no tier of that name.
        LookupError: none works, or not the named one; the message gives every reason.
    """
    if name not in ("auto", *NAMES):
        raise ValueError(f"sandbox tier: found {name!r}, allowed are auto, {', '.join(NAMES)}")
    tried = []
    for candidate in NAMES if name == "auto" else (name,):
        tier = try_tier(candidate, fork_server=fork_server)
        if tier.available:
            return tier
        tried.append(tier)
    reasons = "; ".join(f"{tier.name}: {tier.reason}" for tier in tried)
    if unsafe:
        return Tier(UNSAFE, True, f"no isolation but resource limits, as asked for ({reasons})")
    raise LookupError(
        f"no isolation for model-written programs works here ({reasons}). Install bubblewrap, or allow user "
        "namespaces or Landlock in this container; `unsafe: true` runs programs with resource limits only"
    )


def configuration(tier: Tier, fork_server: bool) -> Configuration:
    """Return the configuration of a broker for `tier`."""
    own = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    interpreters = tuple(dict.fromkeys((own, "/usr/bin/python3", "/usr/local/bin/python3")))
    return Configuration(tier.name, tier.bubblewrap, interpreters, fork_server)


def try_tier(name: str, *, fork_server: bool = False) -> Tier:
    """Run a program in the tier that tries what must not work. A tier that worked is not tried again.

    With a fork server one-shot runs must work too: binaries use them, and may need a /proc.
    """
    if fork_server and not (one_shot := try_tier(name)).available:
        return one_shot
    key = (name, fork_server, os.geteuid())
    with _lock:
        if key not in _found:
            tier = _try(name, fork_server)
            if not tier.available:
                return tier
            _found[key] = tier
        return _found[key]


def _try(name: str, fork_server: bool) -> Tier:
    if not sys.platform.startswith("linux"):
        return Tier(name, False, f"needs Linux, and this is {sys.platform}")
    if not filter_supported():
        return Tier(name, False, f"no system-call filter for {os.uname().machine}")
    path = bubblewrap_path() if name in (BUBBLEWRAP, NO_PROC) else ""
    if path is None:
        return Tier(name, False, "bubblewrap is not installed")
    if name == LANDLOCK and not landlock_version():
        return Tier(name, False, "the kernel has no Landlock, or does not let us use it")
    candidate = Tier(name, False, "", bubblewrap=path)
    try:
        broker = Broker(configuration(candidate, fork_server))
    except (BrokerError, OSError, EOFError) as error:
        return Tier(name, False, str(error))
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            file = os.path.join(folder, "host")
            with open(file, "w") as canary:
                canary.write("readable to everyone")
            told = json.dumps({"file": file, "pid": os.getpid()}).encode()
            done = broker.ask(Request("python", _PROBE.encode(), told, _PROBE_LIMITS)).execution
    except (OSError, EOFError) as error:
        return Tier(name, False, f"the probe was lost: {error}")
    finally:
        broker.close()
    if done.verdict is not Verdict.OK:
        return Tier(name, False, f"the probe ended as {done.verdict}: {done.detail}")
    if done.stdout.strip() != b"[]":
        return Tier(name, False, f"a program could do (or not do) this: {done.stdout.decode().strip()}")
    how = {LANDLOCK: f"Landlock ABI {landlock_version()}, seccomp"}.get(name, "namespaces, seccomp")
    runs = f"Python {broker.hello['version']} at {broker.hello['interpreter']} as {broker.hello['user']}"
    reason = f"{how}; {runs}{'; fork server' if fork_server else ''}"
    return Tier(name, True, reason, broker.hello["interpreter"], path)


def _after_fork() -> None:
    """Renew the lock in a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def record(settings: SandboxSettings) -> dict[str, Any]:
    """Return `{"tier", "reason"}` of the isolation in use; tier is None where none works."""
    try:
        tier = choose(settings.tier, unsafe=settings.unsafe, fork_server=settings.fork_server)
    except LookupError as error:
        return {"tier": None, "reason": str(error)}
    return {"tier": tier.name, "reason": tier.reason}


def check(profile: Profile) -> Check:
    """Check that programs can be isolated: a failure where the profile rewards code, else a warning."""
    from r1kit.machine.doctor import Check  # needs psutil, which a broker does not have

    tier, reason = record(profile.machine.sandbox).values()
    want = BUBBLEWRAP
    if tier is None:
        needed = any(reward.name in CODE_REWARDS for reward in profile.grpo.rewards)
        level = "fail" if needed or profile.grpo.programs else "warn"
        return Check("sandbox", False, "none", want, f"{reason}; as root: apt-get install bubblewrap", level)
    if tier == want or profile.machine.sandbox.tier == tier:
        return Check("sandbox", True, f"{tier} ({reason})")
    do = "it is good enough to go on; stronger with bubblewrap (as root: apt-get install bubblewrap)"
    return Check("sandbox", False, f"{tier} ({reason})", want, do, "warn")
