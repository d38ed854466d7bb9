"""Verdicts, limits, and the places a sandbox is used from."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from r1kit.sandbox import Limits, Sandbox, SandboxError, Verdict, runner
from r1kit.sandbox.broker import Broker
from r1kit.sandbox.runner import COMPILER_LIMITS

ADD = "import sys; print(sum(map(int, sys.stdin.read().split())))"
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        ("print('yes')", "ok", ""),
        ("", "ok", ""),
        ("1/0", "error", "ZeroDivisionError: division by zero"),
        ("this is no program", "error", "SyntaxError"),
        ("import sys; sys.exit(3)", "error", "exit code 3"),
        ("bytearray(1 << 40)", "memory", "MemoryError"),
        ("print('x' * 70_000)", "output", "more than 65536 bytes on stdout"),
        ("import sys; sys.stderr.write('x' * 17_000)", "output", "more than 16384 bytes on stderr"),
        ("import os; os.abort()", "signal", "ended by SIGABRT"),
        ("a\0b", "refused", "NUL"),
        ("print('\udfff')", "refused", "not a text"),
        ("#" * (1 << 20) + "\n", "refused", "1048577 bytes, allowed are 1048576"),
    ],
)
def test_a_verdict_says_how_it_ended_and_why(sandbox, source, verdict, detail):
    execution = sandbox.run(source)
    assert execution.verdict == verdict
    assert detail in execution.detail


def test_a_run_takes_input_and_gives_output(sandbox):
    execution = sandbox.run(ADD, b"1 2 39\n")
    assert (execution.verdict, execution.stdout, execution.stderr, execution.exit_code) == (
        "ok",
        b"42\n",
        b"",
        0,
    )
    assert 0 < execution.seconds < 8


def test_input_can_be_opened_by_name(open_sandbox):
    assert open_sandbox("bubblewrap").run("print(open('/dev/stdin').read())", b"7").stdout == b"7\n"


def test_output_is_kept_up_to_the_limit(sandbox):
    execution = sandbox.run("print('y' * 70_000)")
    assert execution.stdout == b"y" * 65536


def test_a_traceback_shows_the_line_of_the_program(sandbox):
    if not sandbox.tier.name.startswith("bubblewrap"):
        pytest.skip("this tier has no scratch folder to keep the source in")
    assert b'File "main.py", line 2' in sandbox.run("x = 1\nraise KeyError(x)").stderr
    assert b"raise KeyError(x)" in sandbox.run("x = 1\nraise KeyError(x)").stderr


def test_time_runs_out_by_the_wall_clock(sandbox):
    execution = sandbox.run("import time; time.sleep(9)", limits=Limits(wall_seconds=0.2))
    assert (execution.verdict, execution.detail) == (Verdict.TIMEOUT, "still running after 0.2 s")
    assert execution.exit_code is execution.signal is None


@pytest.mark.slow
def test_time_runs_out_by_the_processor(sandbox):
    limits = Limits(cpu_seconds=1, wall_seconds=60)
    assert sandbox.run("while True: pass", limits=limits).verdict is Verdict.CPU


def test_limits_are_checked():
    with pytest.raises(ValueError, match="wall_seconds must be greater than 0, found -1"):
        Limits(wall_seconds=-1)
    with pytest.raises(ValueError, match="memory_bytes must be at least"):
        Limits(memory_bytes=1000)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="found 'docker', allowed are auto, bubblewrap"):
        Sandbox(tier="docker")
    with pytest.raises(ValueError, match="found 0"):
        Sandbox(0)


def test_many_threads_share_few_workers(sandbox):
    with ThreadPoolExecutor(8) as pool:
        runs = pool.map(lambda n: sandbox.run(ADD, f"{n} 1".encode()).stdout, range(24))
        assert list(runs) == [f"{n + 1}\n".encode() for n in range(24)]
    assert len(sandbox.broker_pids) <= sandbox.workers == 2


def test_works_inside_a_running_event_loop(sandbox):
    async def in_jupyter():
        direct = sandbox.run(ADD, b"1 2")
        threads = await asyncio.gather(*(asyncio.to_thread(sandbox.run, ADD, b"3 4") for _ in range(3)))
        return [run.stdout for run in (direct, *threads)]

    assert asyncio.run(in_jupyter()) == [b"3\n", b"7\n", b"7\n", b"7\n"]


def test_a_forked_child_uses_brokers_of_its_own(sandbox):
    """As a data loader's worker does; before, parent and child would have read each other's answers."""
    sandbox.run(ADD, b"1")
    parents = set(sandbox.broker_pids)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            inherited = sandbox.broker_pids
            text = sandbox.run(ADD, b"20 22").stdout
            os.write(write, repr((inherited, text, parents & set(sandbox.broker_pids))).encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        said = file.read()
    os.waitpid(child, 0)
    assert said == "([], b'42\\n', set())"
    assert sandbox.run(ADD, b"5").stdout == b"5\n"
    assert set(sandbox.broker_pids) >= parents


def test_an_interrupted_run_does_not_answer_the_next_one(open_sandbox, monkeypatch):
    """Ctrl-C in a notebook left an answer in the pipe, and the next program got it."""
    sandbox = open_sandbox()
    sandbox.run("print('warm')")

    def interrupted(broker, request):
        runner_ask(broker, request)
        raise KeyboardInterrupt

    runner_ask = Broker.ask
    monkeypatch.setattr(Broker, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("print('old')")
    monkeypatch.undo()
    assert sandbox.run("print('new')").stdout == b"new\n"


def test_a_broker_that_cannot_start_is_trouble_of_ours(open_sandbox, monkeypatch):
    sandbox = open_sandbox()

    def fail(configuration):
        raise OSError("no more processes")

    monkeypatch.setattr(runner, "Broker", fail)
    execution = sandbox.run("print(1)")
    assert execution.verdict is Verdict.INFRA
    assert "no more processes" in execution.detail
    assert sandbox.counts["infra"] == 1


def test_an_interpreter_that_vanished_is_trouble_of_ours(open_sandbox):
    """Every program would else be an `error`: a reward of 0 for all, without a word."""
    sandbox = open_sandbox(tier="bubblewrap")
    sandbox.run("print(1)", limits=Limits(wall_seconds=30))
    execution = sandbox.run("print(1)", limits=Limits(wall_seconds=1e-6))
    assert execution.verdict is Verdict.INFRA
    assert "did not start" in execution.detail


def test_counts_say_how_runs_ended(open_sandbox):
    sandbox = open_sandbox()
    for source in ("print(1)", "print(1)", "1/0"):
        sandbox.run(source)
    assert sandbox.counts["ok"] == 2
    assert sandbox.counts["error"] == 1
    assert sandbox.counts["leaked"] == 0


def test_ctrl_c_in_a_terminal_does_not_reach_a_broker(sandbox):
    sandbox.run("print(1)")
    assert all(os.getsid(pid) == pid != os.getsid(0) for pid in sandbox.broker_pids)


def test_a_broker_knows_nothing_of_the_environment(sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Sandbox(1, tier=sandbox.tier.name) as other:
        other.run("print(1)")
        if os.geteuid() == 0:
            text = Path(f"/proc/{other.broker_pids[0]}/environ").read_text()
            assert "secret" not in text


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["bubblewrap", "bubblewrap-no-proc", "landlock"])
def test_a_cpp_program_is_compiled_and_run(open_sandbox, tier):
    if not runner.shutil.which("g++"):
        pytest.skip("no g++ here")
    sandbox = open_sandbox(tier)
    binary, compiled = sandbox.compile(
        "#include <iostream>\nint main() { int a; std::cin >> a; std::cout << a * 2; }"
    )
    assert compiled.verdict is Verdict.OK
    assert sandbox.run_binary(binary, b"21").stdout == b"42"
    crash, _ = sandbox.compile("int main() { *(volatile int *)0 = 1; }")
    assert sandbox.run_binary(crash).verdict is Verdict.SIGNAL
    fork, _ = sandbox.compile('#include <unistd.h>\n#include <cstdio>\nint main() { printf("%d", fork()); }')
    assert sandbox.run_binary(fork).stdout == b"-1"
    hog, _ = sandbox.compile(
        "#include <vector>\nint main() { std::vector<char> a(1L << 40, 1); return a[5]; }"
    )
    assert sandbox.run_binary(hog).verdict is Verdict.MEMORY
    assert sandbox.counts["leaked"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_a_compiler_is_enclosed_too(open_sandbox, tier):
    if not runner.shutil.which("g++"):
        pytest.skip("no g++ here")
    sandbox = open_sandbox(tier)
    nothing, refused = sandbox.compile("int main() { return x; }")
    assert (nothing, refused.verdict) == (None, Verdict.ERROR)
    assert b"not declared" in refused.stderr
    assert (
        b"No such file" in sandbox.compile('#include "/etc/passwd"\nint main() {}')[1].stderr
        or tier == "landlock"
    )
    assert b"root:" not in sandbox.compile('#include "/etc/passwd"\nint main() {}')[1].stderr
    _, loud = sandbox.compile("#include __FILE__\nint main() {}")
    assert loud.verdict in (Verdict.ERROR, Verdict.OUTPUT)
    _, slow = sandbox.compile(
        "constexpr long f() { long s = 0; for (long i = 0; i < 1000000000; i++) s ^= i; return s; }\n"
        "static_assert(f() >= 0);\nint main() {}",
        flags=("-fconstexpr-loop-limit=2000000000", "-fconstexpr-ops-limit=20000000000"),
        limits=replace(COMPILER_LIMITS, wall_seconds=0.5),
    )
    assert slow.verdict is Verdict.TIMEOUT
    assert sandbox.run("print(1)").stdout == b"1\n"


def test_a_compiler_that_is_not_there_is_trouble_of_ours(sandbox):
    binary, execution = sandbox.compile("int main() {}", "no-such-compiler")
    assert (binary, execution.verdict) == (None, Verdict.INFRA)
    assert "no no-such-compiler on this machine" in execution.detail


@pytest.mark.slow
def test_works_under_accelerate(tmp_path):
    """In each of two worker processes, at once, after the process group has been set up."""
    code = (
        "from accelerate import PartialState\n"
        "state = PartialState(cpu=True)\n"
        "from r1kit.sandbox import Sandbox\n"
        "with Sandbox(1) as sandbox:\n"
        "    print('rank', state.process_index, sandbox.run('print(6 * 7)').stdout, flush=True)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rank 0 b'42\\n'" in done.stdout
    assert "rank 1 b'42\\n'" in done.stdout


def test_runs_in_a_thread_while_the_main_thread_is_busy(sandbox):
    results = []
    thread = threading.Thread(target=lambda: results.append(sandbox.run("print(1)").stdout))
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
    assert results == [b"1\n"]


def test_where_no_tier_works_it_refuses_by_name(monkeypatch):
    from r1kit.sandbox import tiers

    monkeypatch.setattr(tiers, "try_tier", lambda name, **_: tiers.Tier(name, False, "not here"))
    with pytest.raises(SandboxError, match=r"bubblewrap: not here; .*`unsafe: true` runs programs"):
        Sandbox(1)
