r"""math-verify's processes: bounded, replaced, shared by nobody, and of use from anywhere."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from r1kit.rewards import verifier
from r1kit.rewards.accuracy import accuracy_reward, judge, judge_all
from r1kit.rewards.verifier_process import MEMORY_BYTES, REQUEST_SECONDS
from tests.open_files import open_files

RIGHT = (r"\log_2 8", "3")  # a gold and an answer that only math-verify can judge


@pytest.fixture(autouse=True)
def no_verdict_is_remembered():
    """The processes of earlier tests are kept, because starting one takes a second."""
    verifier.forget()
    yield
    verifier.forget()


def only_child() -> psutil.Process:
    """The one process at rest; another test's is good enough."""
    if len(verifier.children()) != 1:
        verifier.stop()
        verifier.warm_up(1)
    return psutil.Process(*verifier.children())


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_a_thread(function, *arguments) -> tuple[threading.Thread, list]:
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)))
    thread.start()
    return thread, found


def test_a_process_starts_at_the_first_pair_that_needs_it_and_is_kept():
    verifier.stop()
    assert judge_all([("5", "5"), ("0.5", r"\frac{1}{2}"), ("B", "A")] * 50) == [1.0, 1.0, 0.0] * 50
    assert verifier.children() == []
    assert verifier.verify(*RIGHT) == 1.0
    started = verifier.children()
    assert verifier.verify(r"\log_2 16", "4") == 1.0
    assert verifier.children() == started
    assert len(started) == 1


HOSTILE = {
    "thousands of braces": "{" * 1500 + "}" * 1500,
    "brackets without end": "(" * 900 + r"\sin 1" + ")" * 900,
    "a megabyte": "1" * 1_000_000,
    "many digits": "9" * 1900 + r"\sin 1",
    "NUL": "\x00",
    "a lone surrogate": "\ud800",
    "a lone surrogate in an expression": "\\sin \ud800",
    "unbalanced braces": "}{",
    "a line break": "5\n6",
    "a tower of powers": "9^{9^{9^{9^{9}}}}",
    "a huge power": "10^{10^{10}}",
    "a huge power in a sum": r"10^{10^{10}} + \sin 1",
    "many logarithms": r"\log_{2}" * 300 + "2",
    "a large matrix": r"\begin{pmatrix}" + r"\sin 1 &" * 150 + r"1\end{pmatrix}",
}
ENDLESS = {
    "a tower inside a function": r"\sin(9^{9^{9^{9}}})",
    "a factorial of a factorial": "((100!)!)!",
    "a binomial": r"\binom{10^9}{5*10^8}",
    "roots of roots": r"\sqrt[3]{" * 39 + "2" + "}" * 39,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_wrong_and_the_next_one_is_judged(name):
    text = f"<think>\nhm\n</think>\n<answer>\n{HOSTILE[name]}\n</answer>"
    assert judge(HOSTILE[name], "5") == 0.0
    assert accuracy_reward([text], ["5"]) == [0.0]
    assert verifier.verify(*RIGHT) == 1.0


@pytest.mark.slow
def test_answers_without_end_are_wrong_together_and_do_not_delay_the_rest():
    """Each is bounded by two seconds of CPU time a step; two processes take them side by side."""
    verifier.warm_up(2)
    answers = [*ENDLESS.values(), r"\log_2 32"]
    assert judge_all([(answer, "5") for answer in answers]) == [0.0] * len(ENDLESS) + [1.0]


@pytest.mark.slow
def test_a_gold_without_end_is_nobodys_fault():
    gold = ENDLESS["a tower inside a function"]
    assert judge_all([("5", gold), (gold, gold), (None, gold)]) == [None] * 3


def test_the_kernel_bounds_memory_and_cpu_time_of_each_request():
    """A power of powers runs in C code, where no signal handler of Python's is called."""
    child = only_child()
    assert verifier.verify(*RIGHT) == 1.0
    assert child.rlimit(psutil.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
    used = sum(child.cpu_times()[:2])
    assert child.rlimit(psutil.RLIMIT_CPU)[0] <= used + REQUEST_SECONDS + 1


def test_an_idle_process_that_was_killed_is_replaced():
    child = only_child()
    child.kill()
    wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
    assert verifier.verify(*RIGHT) == 1.0
    assert verifier.children() != [child.pid]
    assert not psutil.pid_exists(child.pid)  # reaped as well


def test_a_process_killed_at_work_by_someone_else_costs_nobody_a_reward():
    """An answer can't be blamed for what the host does: the pair is judged once more."""
    child = only_child()
    child.suspend()
    thread, found = in_a_thread(verifier.verify, *RIGHT)
    wait_until(lambda: not verifier._idle)
    child.kill()
    thread.join()
    assert found == [1.0]


@pytest.mark.slow
def test_a_pair_whose_process_is_killed_twice_is_none(monkeypatch):
    class Killed(verifier.Child):
        def ask(self, gold, answer):
            self.process.kill()
            return super().ask(gold, answer)

    verifier.stop()
    monkeypatch.setattr(verifier, "Child", Killed)
    assert verifier.verify(*RIGHT) is None
    monkeypatch.undo()
    assert verifier.verify(*RIGHT) == 1.0  # trouble of ours is not remembered


@pytest.mark.slow
def test_a_process_that_never_answers_is_ended(monkeypatch):
    child = only_child()
    child.suspend()
    monkeypatch.setattr(verifier, "ANSWER_SECONDS", 0.05)
    assert verifier.verify(r"\sin 1", "5") is None  # not even the gold was understood
    assert not psutil.pid_exists(child.pid)
    monkeypatch.undo()
    assert verifier.verify(r"\sin 1", "5") is None  # remembered: each row of the group gets the same
    assert verifier.verify(r"\sin 2", "5") == 0.0


@pytest.mark.slow
def test_a_batch_is_shared_by_as_many_processes_as_allowed(monkeypatch):
    verifier.stop()
    pairs = [(rf"\log_2 {n}", rf"\frac{{\ln {n}}}{{\ln 2}}") for n in range(3, 3 + verifier.PAIRS_PER_WORKER)]
    assert verifier.verify_all(pairs + pairs[:3], workers=2) == [1.0] * (len(pairs) + 3)
    assert len(verifier.children()) == 2
    assert verifier.verify_all([], workers=2) == []


def test_the_processes_of_one_host_are_shared_out_among_its_training_processes(monkeypatch):
    monkeypatch.setattr(verifier, "cores", lambda: 16)
    assert verifier.most_workers() == verifier.MOST_WORKERS
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert verifier.most_workers() == 2
    monkeypatch.setattr(verifier, "cores", lambda: 2)
    assert verifier.most_workers() == 1


def test_judging_works_off_the_main_thread_and_in_a_running_event_loop():
    """math-verify's alarms raise in a thread; Jupyter's kernel runs a loop in the main one."""
    thread, found = in_a_thread(judge, "3", r"\log_2 8")
    thread.join()

    async def in_a_loop():
        return judge("4", r"\log_2 16")

    assert found == [1.0]
    assert asyncio.run(in_a_loop()) == 1.0


@pytest.mark.slow
def test_threads_that_judge_at_once_get_their_own_verdicts_from_a_few_processes():
    threads = [
        in_a_thread(verifier.verify, rf"\log_2 {2**n}", str(n if n % 2 else n + 1)) for n in range(2, 10)
    ]
    for thread, _ in threads:
        thread.join()
    assert [found for _, found in threads] == [[float(n % 2)] for n in range(2, 10)]
    assert len(verifier.children()) <= verifier.MOST_WORKERS


@pytest.mark.slow
def test_a_forked_process_gets_a_verifier_of_its_own():
    """Data loader workers are forks: two readers on one pipe would take each other's verdicts."""
    child = only_child()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(verifier.verify, RIGHT) == 1.0
        assert pool.apply(verifier.children) != [child.pid]
    assert verifier.verify(r"\log_2 16", "5") == 0.0
    assert verifier.children() == [child.pid]


@pytest.mark.slow
def test_a_verifier_ends_with_its_owner_even_if_that_is_killed():
    code = (
        "from r1kit.rewards import verifier; verifier.warm_up(1);"
        "print(*verifier.children(), flush=True); import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        child = psutil.Process(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.slow
def test_no_descriptor_or_process_is_left_behind():
    verifier.stop()
    verifier.warm_up(1)
    verifier.stop()
    before = open_files(), psutil.Process().children()
    verifier.warm_up(1)
    verifier.stop()
    assert open_files() - before[0] == set()
    assert psutil.Process().children() == before[1]
