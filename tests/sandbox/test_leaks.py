"""Nothing stays behind: no process, no zombie, no file, no descriptor, whoever is killed when."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r1kit.sandbox import Limits, Verdict, tiers
from tests.open_files import open_files

FIRST = (tiers.NAMES[0], False)
MODES = [
    pytest.param(tier, fork_server, marks=[] if (tier, fork_server) == FIRST else pytest.mark.slow)
    for tier in tiers.NAMES
    for fork_server in (False, True)
]
REPOSITORY = Path(__file__).parents[2]
SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(60)"


def processes():
    """Every process as (pid, state, parent), zombies included."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # ended meanwhile
        found[int(name)] = state, int(parent)
    return found


def under(pid):
    """All descendants of a process."""
    parents = {child: parent for child, (_, parent) in processes().items()}
    found, wave = set(), {pid}
    while wave:
        wave = {child for child, parent in parents.items() if parent in wave}
        found |= wave
    return found


def until(condition, seconds=20):
    """Wait for a condition that another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.mark.alone  # it counts the zombies of the whole machine
@pytest.mark.slow
@pytest.mark.parametrize("fork_server", [False, True])
@pytest.mark.parametrize("tier", [tiers.NAMES[0], tiers.NAMES[-1]])
def test_200_runs_leave_nothing(open_sandbox, tier, fork_server):
    sandbox = open_sandbox(tier, fork_server=fork_server)
    endings = ["print(1)", "1/0", "print('x' * 100_000)", "import os; os.abort()", "import sys; sys.exit(3)"]
    short = Limits(wall_seconds=0.3)
    sandbox.run("print(1)")
    sandbox.run("import time; time.sleep(9)", limits=short)
    broker = sandbox.broker_pids[0]
    before = (
        processes(),
        under(broker),
        open_files(broker),
        open_files(),
        os.listdir(tempfile.gettempdir()),
    )
    for i in range(195):
        assert sandbox.run(endings[i % len(endings)]).verdict is not Verdict.INFRA
    for _ in range(5):
        assert sandbox.run("import time; time.sleep(9)", limits=short).verdict is Verdict.TIMEOUT
    assert under(broker) == before[1]
    assert open_files(broker) == before[2]
    assert open_files() - before[3] == set()
    assert [
        name for name in os.listdir(tempfile.gettempdir()) if "r1kit" in name and name not in before[4]
    ] == []
    # Other programs run on this machine: only what is a zombie, or ours, counts.
    new = {pid: entry for pid, entry in processes().items() if pid not in before[0]}
    assert [
        pid for pid, (state, parent) in new.items() if state == "Z" and parent in (1, os.getpid(), broker)
    ] == []
    assert sandbox.counts["leaked"] == sandbox.counts["retried"] == 0
    sandbox.close()
    assert broker not in processes()


@pytest.mark.parametrize("fork_server", [False, True])
def test_a_few_runs_leave_nothing(open_sandbox, fork_server):
    sandbox = open_sandbox(fork_server=fork_server)
    sandbox.run("print(1)")
    broker = sandbox.broker_pids[0]
    before = under(broker), open_files(broker)
    ours = open_files()
    for source in ("print(1)", "1/0", "print('x' * 100_000)"):
        sandbox.run(source)
    sandbox.run("import time; time.sleep(9)", limits=Limits(wall_seconds=0.2))
    assert (under(broker), open_files(broker)) == before
    assert open_files() - ours == set()
    sandbox.close()
    assert broker not in processes()


@pytest.mark.parametrize(("tier", "fork_server"), MODES)
def test_two_runs_at_once_cannot_see_each_other(open_sandbox, tier, fork_server):
    sandbox = open_sandbox(tier, workers=2, fork_server=fork_server)
    look = (
        "import os, time\n"
        "for folder in ('.', '/tmp'):\n"
        "    try: open(f'{folder}/of-{NAME}', 'w').close()\n"
        "    except OSError: pass\n"
        "time.sleep(0.3)\n"
        "seen = []\n"
        "for folder in ('.', '/tmp', '/dev/shm'):\n"
        "    try: seen += [name for name in os.listdir(folder) if name.startswith('of-')]\n"
        "    except OSError: pass\n"
        "try: pids = set(map(int, filter(str.isdigit, os.listdir('/proc')))) - {1, os.getpid()}\n"
        "except OSError: pids = set()\n"
        "print(set(seen) - {'of-' + NAME} | pids)"
    )
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(sandbox.run, f"NAME = '{name}'\n{look}") for name in ("one", "two")]
    assert [run.result().stdout for run in runs] == [b"set()\n"] * 2


@pytest.mark.parametrize("fork_server", [False, True])
@pytest.mark.parametrize("tier", tiers.NAMES)
def test_a_run_finds_nothing_of_the_one_before(open_sandbox, tier, fork_server):
    sandbox = open_sandbox(tier, fork_server=fork_server)
    mark = "import sys, math\nmath.pi = 3\nsys.modules['left'] = 1\nopen('left', 'w').write('x')"
    look = "import os, sys, math\nprint(math.pi, 'left' in sys.modules, os.path.exists('left'))"
    written = sandbox.run(mark)
    assert sandbox.run(look).stdout == b"3.141592653589793 False False\n"
    if tier == tiers.LANDLOCK:  # no disk of a fixed size without a mount: a program writes no file there
        assert (written.verdict, written.detail[:15]) == (Verdict.ERROR, "PermissionError")
    else:
        assert written.verdict is Verdict.OK
        assert sandbox.run("import os; print(os.listdir('.'))").stdout == b"['main.py']\n"


@pytest.mark.failures
@pytest.mark.parametrize(("tier", "fork_server"), MODES)
def test_a_killed_broker_costs_one_more_try(open_sandbox, tier, fork_server):
    sandbox = open_sandbox(tier, fork_server=fork_server)
    sandbox.run("print(1)")
    broker = sandbox.broker_pids[0]
    beneath = under(broker)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sandbox.run, "import time; time.sleep(2); print('done')")
        until(lambda: under(broker) - beneath)
        started = under(broker)
        os.kill(broker, signal.SIGKILL)
        assert run.result().stdout == b"done\n"
    assert sandbox.counts["retried"] == 1
    until(lambda: not [pid for pid in started if processes().get(pid, "Z")[0] != "Z"])


@pytest.mark.failures
def test_a_broker_killed_twice_is_trouble_of_ours(open_sandbox):
    sandbox = open_sandbox()
    sandbox.run("print(1)")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sandbox.run, SLEEP)
        for _ in range(2):
            until(lambda: sandbox.broker_pids and under(sandbox.broker_pids[0]))
            pid = sandbox.broker_pids[0]
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in sandbox.broker_pids)
        assert run.result().verdict is Verdict.INFRA
    assert sandbox.run("print(2)").stdout == b"2\n"


@pytest.mark.failures
@pytest.mark.parametrize(("tier", "fork_server"), MODES)
def test_when_its_owner_is_killed_everything_ends(tier, fork_server):
    found = tiers.try_tier(tier, fork_server=fork_server)
    if not found.available:
        pytest.skip(found.reason)
    code = (
        "from r1kit.sandbox import Sandbox\nimport threading\n"
        f"sandbox = Sandbox(2, tier={tier!r}, fork_server={fork_server})\n"
        f"for _ in range(2): threading.Thread(target=sandbox.run, args=({SLEEP!r},)).start()\n"
        "print('started', flush=True)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"started\n"
        until(lambda: len(under(owner.pid)) >= 4)
        beneath = under(owner.pid)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    until(lambda: not [pid for pid in beneath if processes().get(pid, "Z")[0] != "Z"])


@pytest.mark.slow
@pytest.mark.failures
@pytest.mark.parametrize("fork_server", [False, True])
def test_a_broker_killed_while_it_starts_something_leaves_nothing(open_sandbox, fork_server):
    """A bubblewrap whose parent died in the same millisecond was found asleep an hour later."""
    sandbox = open_sandbox(fork_server=fork_server)
    for i in range(6):
        thread = threading.Thread(target=sandbox.run, args=("print(1)",))
        thread.start()
        until(lambda: sandbox.broker_pids)
        broker = sandbox.broker_pids[0]
        deadline = time.monotonic() + 0.2
        while not under(broker) and time.monotonic() < deadline:
            pass
        time.sleep(i * 0.0008)
        with contextlib.suppress(ProcessLookupError):
            os.kill(broker, signal.SIGKILL)
        thread.join()
        assert sandbox.run("print(2)").stdout == b"2\n"  # if it was between two runs, this one notices
        until(lambda broker=broker: not in_session(broker))


def in_session(leader):
    """What a dead broker left: it started everything in its own session. Zombies are init's matter."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[3] == str(leader) and fields[0] != "Z":
                found.append(pid)
    return found


def test_closing_ends_runs_under_way(open_sandbox):
    sandbox = open_sandbox()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sandbox.run, SLEEP)
        until(lambda: sandbox.broker_pids and under(sandbox.broker_pids[0]))
        beneath = under(sandbox.broker_pids[0])
        sandbox.close()
        assert run.result().verdict is Verdict.INFRA
    assert not beneath & set(processes())
    assert sandbox.run("print(1)").detail == "the sandbox was closed"


def test_the_owner_adopts_and_reaps_nobody(open_sandbox):
    sandbox = open_sandbox()
    threads = set(threading.enumerate())
    other = subprocess.Popen(["sh", "-c", "exit 7"])
    for _ in range(3):
        sandbox.run("print(1)")
    assert other.wait() == 7  # nobody else waited for it
    assert len(set(threading.enumerate()) - threads) < 20
