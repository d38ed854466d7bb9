from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from r1kit.data.row_files import map_in_order


def pairs(count, started):
    for number in range(count):
        started.append(number)
        yield [number, -number]


def total(numbers):
    if numbers[0] == 7:
        raise ValueError("seven")
    return sum(map(abs, numbers))


def test_one_worker_works_in_this_process_and_reads_nothing_ahead():
    started = []
    results = map_in_order(total, pairs(5, started))
    assert next(results) == 0
    assert started == [0]
    assert list(results) == [2, 4, 6, 8]


@pytest.mark.slow
def test_results_come_in_order_reading_stays_close_and_errors_come_through():
    started, seen = [], []
    with pytest.raises(ValueError, match="seven"):
        seen.extend(map_in_order(total, pairs(1000, started), workers=2))
    assert seen == [0, 2, 4, 6, 8, 10, 12]
    assert len(started) <= 7 + 2 * 2 + 1


ENDLESS = """
import time
from r1kit.data.row_files import map_in_order
from multiprocessing import active_children
results = map_in_order(abs, range(10**9), workers=2)
for _ in range(3): next(results)
print(*(child.pid for child in active_children()), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.failures
def test_the_workers_end_when_their_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
