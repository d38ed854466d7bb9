"""The tiers of isolation are found by trying, and say why they work or do not."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from r1kit.sandbox import Sandbox, Verdict, tiers
from r1kit.sandbox.broker import BrokerError
from r1kit.sandbox.kernel import SPARE_UIDS
from r1kit.settings import load_profile
from r1kit.settings.machine import SandboxSettings


@pytest.fixture
def untried(monkeypatch):
    """Nothing remembered of earlier probes."""
    monkeypatch.setattr(tiers, "_found", {})


def test_the_probe_names_every_tier_with_a_reason(untried):
    found = tiers.probe()
    assert [tier.name for tier in found] == ["bubblewrap", "bubblewrap-no-proc", "landlock"]
    for tier in found:
        assert tier.reason
        assert bool(tier.interpreter) == tier.available
        if tier.available:
            assert f"at {tier.interpreter} as " in tier.reason


def test_the_strongest_that_works_is_chosen(monkeypatch):
    working = {"bubblewrap-no-proc", "landlock"}
    monkeypatch.setattr(tiers, "try_tier", lambda name, **_: tiers.Tier(name, name in working, "because"))
    assert tiers.choose().name == "bubblewrap-no-proc"
    assert tiers.choose("landlock").name == "landlock"
    with pytest.raises(LookupError, match="bubblewrap: because"):
        tiers.choose("bubblewrap")


def test_unsafe_is_only_for_where_nothing_works(monkeypatch):
    if any(tier.available for tier in tiers.probe()):
        assert tiers.choose(unsafe=True).name != "unsafe"
    monkeypatch.setattr(tiers, "try_tier", lambda name, **_: tiers.Tier(name, False, "not here"))
    tier = tiers.choose(unsafe=True)
    assert (tier.name, tier.available) == ("unsafe", True)
    assert "no isolation but resource limits, as asked for" in tier.reason
    with Sandbox(1, unsafe=True, fork_server=True) as sandbox:
        assert sandbox.run("import os; os.fork(); print(1)").stdout.startswith(b"1\n")
        assert sandbox.run("bytearray(1 << 40)").verdict is Verdict.MEMORY


def test_a_tier_in_which_a_program_gets_out_is_not_used(untried, monkeypatch):
    """A kernel with a broken Landlock, a bubblewrap that shares the network: what counts is what happens."""
    leaky = tiers._PROBE.replace("print(json.dumps(wrong))", "print(json.dumps(['read a file of the host']))")
    monkeypatch.setattr(tiers, "_PROBE", leaky)
    if not tiers.landlock_version():
        pytest.skip("no Landlock here")
    tier = tiers.try_tier("landlock")
    assert not tier.available
    assert "read a file of the host" in tier.reason


def test_without_bubblewrap_the_next_tier_serves(untried, monkeypatch):
    monkeypatch.setattr(tiers, "bubblewrap_path", lambda: None)
    found = {tier.name: tier for tier in tiers.probe()}
    assert found["bubblewrap"].reason == "bubblewrap is not installed"
    if found["landlock"].available:
        assert tiers.choose().name == "landlock"


def test_a_bubblewrap_that_fails_says_what_it_said(untried, monkeypatch):
    """As where AppArmor, docker's seccomp profile or a sysctl forbids user namespaces."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to the broker's spare user
        fake = Path(folder, "bwrap")
        fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        fake.chmod(0o755)
        fake.parent.chmod(0o755)
        monkeypatch.setattr(tiers, "bubblewrap_path", lambda: str(fake))
        tier = tiers.try_tier("bubblewrap")
    assert not tier.available
    assert "No permissions to create new namespace" in tier.reason


def test_a_processor_without_a_filter_is_told(untried, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert all("no system-call filter" in tier.reason for tier in tiers.probe())


def test_root_uses_a_python_that_a_spare_user_can_reach():
    """Root's virtual environments lie in a home that is closed to others; every run failed there."""
    if os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"):
        pytest.skip("for root, with the system's python3")
    with Sandbox(1) as sandbox:
        interpreter, uid = sandbox.tier.interpreter, sandbox.tier.reason.rpartition("uid ")[2]
        assert int(uid) in SPARE_UIDS
        assert os.stat(interpreter).st_mode & 0o005
        assert sandbox.run("import sys; print(sys.executable)").stdout.decode().strip() == interpreter


@pytest.mark.parametrize("fork_server", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_checkout_in_a_closed_home_works(tmp_path, fork_server):
    """The broker is not root any more when it starts programs, and could not read its own files then."""
    package = Path(tiers.__file__).parents[1]
    tmp_path.chmod(0o700)
    (tmp_path / "r1kit").mkdir()
    shutil.copy(package / "__init__.py", tmp_path / "r1kit")
    shutil.copytree(package / "sandbox", tmp_path / "r1kit" / "sandbox")
    code = (
        "from r1kit.sandbox import Sandbox\n"
        f"with Sandbox(1, fork_server={fork_server}) as sandbox: print(sandbox.run('print(5)'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert r"stdout=b'5\n'" in done.stdout


def test_no_python_within_reach_is_told(untried, monkeypatch):
    configuration = tiers.configuration(tiers.Tier("landlock", True, ""), False)
    nowhere = type(configuration)("landlock", "", ("/nowhere/python3",))
    with pytest.raises(
        BrokerError, match=r"no Python from 3.9 on that .* can start \(tried /nowhere/python3\)"
    ):
        tiers.Broker(nowhere)


def masked_proc(command):
    """Run where no new /proc can be mounted, as in docker; skips if that cannot be arranged."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces")
    hide = 'mount -t tmpfs hidden /proc/tty && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", *command], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("fork_server", [False, True])
def test_where_proc_is_masked_the_tier_without_it_serves(fork_server):
    """With a fork server, which has no /proc, the first tier seemed to work, and no binary could be run."""
    if not all(tier.available for tier in tiers.probe()):
        pytest.skip("needs every tier outside of the namespace")
    code = (
        "from r1kit.sandbox import Sandbox\n"
        f"with Sandbox(1, fork_server={fork_server}) as sandbox:\n"
        "    print(sandbox.tier.name, sandbox.run('print(5)').stdout)"
    )
    assert masked_proc([sys.executable, "-c", code]).strip() == r"bubblewrap-no-proc b'5\n'"


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
