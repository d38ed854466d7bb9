"""What only the fork server could get wrong: its runs share a parent."""

import contextlib
import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from r1kit.sandbox import Limits, Sandbox, Verdict, tiers
from tests.sandbox.test_leaks import SLEEP, processes, under, until

TIERS = [tiers.NAMES[0], pytest.param(tiers.NAMES[-1], marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=TIERS)
def forking(request):
    """One worker, whose server no test but those of `mortal` may end."""
    found = tiers.try_tier(request.param, fork_server=True)
    if not found.available:
        pytest.skip(found.reason)
    with Sandbox(1, tier=request.param, fork_server=True) as sandbox:
        yield sandbox
        assert sandbox.counts["retried"] == sandbox.counts["leaked"] == 0


@pytest.fixture(params=TIERS)
def mortal(request, open_sandbox):
    return open_sandbox(request.param, fork_server=True)


@pytest.fixture(scope="module")
def both_ways():
    if not any(tier.available for tier in tiers.probe(fork_server=True)):
        pytest.skip("no tier works here")
    with Sandbox(1) as alone, Sandbox(1, fork_server=True) as forking:
        yield alone, forking


def server_of(sandbox):
    """The host's numbers of the processes that stay between runs: under Landlock others take numbers, too."""
    assert sandbox.run("print(1)").stdout == b"1\n"
    return under(sandbox.broker_pids[0])


def test_runs_are_children_of_one_server(forking):
    server = server_of(forking)
    assert server
    assert server_of(forking) == server


def test_no_program_can_end_or_stop_its_server(forking):
    server = server_of(forking)
    attack = (
        "import os, signal\n"
        "for pid in (os.getppid(), 1, 0, -1, *range(2, 500)):\n"
        "    for number in (signal.SIGSTOP, signal.SIGKILL):\n"
        "        if pid != os.getpid():\n"
        "            try: os.kill(pid, number)\n"
        "            except OSError: pass\n"
        "print('alive')"
    )
    assert forking.run(attack).stdout == b"alive\n"
    assert server_of(forking) == server


def test_no_program_can_speak_for_its_server(forking):
    """The server's socket and functions are in a child's memory, but its descriptor is not the child's."""
    server = server_of(forking)
    spoof = (
        "import os, socket, sys\n"
        "frame, found, sent = sys._getframe(), [], 0\n"
        "while frame:\n"
        "    found += [v for v in frame.f_locals.values() if isinstance(v, socket.socket)]\n"
        "    frame = frame.f_back\n"
        "for connection in found:\n"
        "    try: sent += connection.send(b'[0, 0.0]')\n"
        "    except OSError: pass\n"
        "for fd in range(3, 1000):\n"
        "    try: sent += os.write(fd, b'[0, 0.0]')\n"
        "    except OSError: pass\n"
        "print(len(found) > 0, sent, flush=True)\n"
        "os._exit(3)"
    )
    execution = forking.run(spoof)
    assert (execution.verdict, execution.exit_code) == (Verdict.ERROR, 3)
    assert execution.stdout == b"True 0\n"
    assert server_of(forking) == server


def test_a_program_that_returns_into_the_server_ends_there(forking):
    """Everything a program can raise or unwind to is caught below the server's loop."""
    for source in (
        "raise BaseException('x')",
        "raise SystemExit",
        "raise GeneratorExit",
        "import sys; sys.exit(True)",
        "import atexit, os; atexit.register(os._exit, 9)",
        "import threading; threading._shutdown = None",
        "import sys; sys.excepthook = lambda *a: 1 / 0; 1 / 0",
        "import sys; sys.stdout.close()",
        "import sys; del sys.stderr; 1 / 0",
        "import builtins; builtins.BaseException = None; raise KeyError",
    ):
        assert forking.run(source).verdict in (Verdict.OK, Verdict.ERROR), source
    assert forking.run("print('next')").stdout == b"next\n"


@pytest.mark.parametrize(
    "source",
    [
        "print('yes')",
        "import sys; sys.exit()",
        "import sys; sys.exit(258)",
        "import sys; sys.exit('no')",
        "exit(4)",
        "raise ValueError('x')",
        "def f(:",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
        "import atexit; atexit.register(print, 'bye'); print('hi')",
        "print(input(), __name__, __file__, sorted(k for k in globals() if not k.startswith('__')))",
        "import sys; print(sys.stdin.encoding, sys.stdin.errors, sys.stdout.errors, sys.stderr.errors)",
        "import sys; print(sys.argv, sys.flags.isolated, sys.stdout.isatty(), sys.stdin.readline())",
        "import sys; sys.stdout.write('no newline'); sys.stderr.write('e')",
        "print('\\udcff')",
    ],
)
def test_a_program_ends_the_same_as_alone(both_ways, source):
    alone, forked = (sandbox.run(source, b"line\n") for sandbox in both_ways)
    fields = ("verdict", "stdout", "exit_code", "signal", "detail")
    assert {name: getattr(forked, name) for name in fields} == {name: getattr(alone, name) for name in fields}


def test_two_runs_do_not_draw_the_same_random_numbers(forking):
    draw = "import os, random, uuid; print(random.random(), uuid.uuid4(), os.urandom(4))"
    assert len({forking.run(draw).stdout for _ in range(3)}) == 3


def test_limits_are_those_of_the_run_and_not_of_the_server(forking):
    show = "from resource import *; print(getrlimit(RLIMIT_AS)[0], getrlimit(RLIMIT_CPU))"
    for megabytes, seconds in ((300, 2), (500, 7)):
        limits = Limits(memory_bytes=megabytes << 20, cpu_seconds=seconds)
        assert (
            forking.run(show, limits=limits).stdout.decode()
            == f"{megabytes << 20} ({seconds}, {seconds + 1})\n"
        )


@pytest.mark.failures
def test_a_killed_server_costs_one_more_try(mortal):
    mortal.run("print(1)")
    server = under(mortal.broker_pids[0])
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(mortal.run, "import time; time.sleep(0.3); print('done')")
        until(lambda: under(mortal.broker_pids[0]) - server)
        for process in server:
            with contextlib.suppress(ProcessLookupError):  # one takes the others with it
                os.kill(process, signal.SIGKILL)
        assert run.result().stdout == b"done\n"
    assert mortal.counts["retried"] == 1
    until(lambda: not server & {pid for pid, (state, _) in processes().items() if state != "Z"})


@pytest.mark.slow
@pytest.mark.failures
def test_a_stopped_server_is_replaced(mortal):
    """It does not answer, so the broker ends it rather than to wait for it."""
    mortal.run("print(1)")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(mortal.run, SLEEP, limits=Limits(wall_seconds=0.3))
        until(lambda: len(under(mortal.broker_pids[0])) >= 2)
        for process in under(mortal.broker_pids[0]):
            os.kill(process, signal.SIGSTOP)
        assert run.result().verdict is Verdict.TIMEOUT
    assert mortal.run("print(2)").stdout == b"2\n"


@pytest.mark.slow
def test_a_server_is_replaced_after_many_runs(open_sandbox):
    """Seen by the process numbers, which start again in a new namespace."""
    mortal = open_sandbox("bubblewrap", fork_server=True)
    pids = [int(mortal.run("import os; print(os.getpid())").stdout) for _ in range(505)]
    assert sum(later < earlier for earlier, later in itertools.pairwise(pids)) == 1
    assert mortal.counts["retried"] == mortal.counts["leaked"] == 0
