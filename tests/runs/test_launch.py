"""Jobs started from Python: exit codes, messages, stopping, finding again."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import pytest

from r1kit.runs import launch as launching
from r1kit.runs.launch import JobFailed, attach, launch

GRACE = 5.0


@pytest.fixture
def start(tmp_path):
    """Launch a piece of Python as a training program; whatever still runs after the test is stopped."""
    folder, modules, jobs = tmp_path / "job", tmp_path / "modules", []
    folder.mkdir()
    modules.mkdir()
    (folder / "resolved.yaml").write_text("x: 1\n")

    def start(code: str, **options):
        (modules / "program.py").write_text(code)
        environment = {"PYTHONPATH": str(modules)} | options.pop("environment", {})
        options = {"grace": GRACE, "accelerate": False, "environment": environment} | options
        jobs.append(launch("program", folder, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.stop()


def wait_for(path, seconds=20):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_a_job_that_ends_well_raises_nothing(start, tmp_path):
    job = start("import sys, os; print(sys.argv[1]); print(os.environ['A'])", environment={"A": "b"})
    job.wait()
    assert job.poll() == 0
    assert job.log_tail().splitlines() == [str(tmp_path / "job" / "resolved.yaml"), "b"]


def test_a_variable_can_be_removed(start, monkeypatch):
    monkeypatch.setenv("UNWANTED", "1")
    job = start("import os; print('UNWANTED' in os.environ)", environment={"UNWANTED": None})
    job.wait()
    assert job.log_tail() == "False"


@pytest.mark.parametrize(
    ("code", "returncode", "words"),
    [
        ("raise ValueError('a bad batch')", 1, "program stopped with exit code 1: ValueError: a bad batch"),
        ("import sys; sys.exit(2)", 2, "exit code 2"),
        ("import sys; sys.exit(3)", 3, "ran out of memory"),
        ("raise MemoryError", 3, "ran out of memory: MemoryError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "signal 11"),
    ],
)
def test_a_failure_carries_its_exit_code_one_paragraph_and_the_log(start, code, returncode, words):
    with pytest.raises(JobFailed) as caught:
        start(f"print('step 1', flush=True)\n{code}").wait()
    assert caught.value.returncode == returncode
    assert words in caught.value.message
    assert "train.log" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.log_tail.startswith("step 1")


def test_what_the_program_says_of_its_end_counts_more_than_its_log(start, tmp_path):
    stated = '{"returncode": 2, "message": "SettingsError: no such key"}'
    (tmp_path / "job" / "exit.json").write_text('{"returncode": 3, "message": "of an earlier attempt"}')
    os.utime(tmp_path / "job" / "exit.json", (0, 0))
    with pytest.raises(JobFailed, match="exit code 1"):
        start("import sys; sys.exit(1)").wait()
    with pytest.raises(JobFailed, match="SettingsError: no such key") as caught:
        start(
            f"open({str(tmp_path / 'job' / 'exit.json')!r}, 'w').write({stated!r}); raise MemoryError"
        ).wait()
    assert caught.value.returncode == 2


def test_a_job_that_takes_too_long_is_a_timeout(start):
    with pytest.raises(JobFailed) as caught:
        start("import time; time.sleep(600)", timeout=0.5).wait()
    assert caught.value.returncode == 4


def test_the_log_of_an_earlier_attempt_is_kept_but_not_blamed(start, tmp_path):
    with pytest.raises(JobFailed):
        start("raise MemoryError").wait()
    with pytest.raises(JobFailed) as caught:
        start("import sys; sys.exit(1)").wait()
    assert caught.value.returncode == 1
    assert "MemoryError" not in caught.value.log_tail
    assert "MemoryError" in (tmp_path / "job" / "train.log").read_text()


def test_awaiting_leaves_the_event_loop_free(start):
    ticks = []

    async def both():
        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0.05)

        ticking = asyncio.ensure_future(tick())
        await start("import time; time.sleep(0.5)").finished()
        ticking.cancel()

    asyncio.run(both())
    assert len(ticks) > 5


def test_cancelling_ends_the_job_and_goes_on(start, tmp_path):
    up = tmp_path / "up"
    job = start(f"import time; open({str(up)!r}, 'w'); time.sleep(600)")

    async def cancel_it():
        waiting = asyncio.ensure_future(job.finished())
        while not up.exists():
            await asyncio.sleep(0.02)
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel_it())
    assert job.poll() == 143


def test_an_interrupt_ends_the_job_and_goes_on(start, tmp_path, monkeypatch):
    up = tmp_path / "up"
    job = start(f"import time; open({str(up)!r}, 'w'); time.sleep(600)")
    wait_for(up)
    really_sleep, interrupts = time.sleep, iter([KeyboardInterrupt])

    def interrupted(seconds):
        for error in interrupts:
            raise error
        really_sleep(seconds)

    monkeypatch.setattr(launching.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.wait()
    assert job.poll() == 143


def test_a_detached_job_survives_an_interrupted_wait_and_is_found_again(start, tmp_path):
    up = tmp_path / "up"
    job = start(f"import time; open({str(up)!r}, 'w'); time.sleep(600)", detach=True)
    wait_for(up)

    async def cancelled():
        await asyncio.wait_for(job.finished(), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    again = attach(tmp_path / "job")
    assert again.poll() is None
    threading.Timer(0.2, job.stop).start()
    with pytest.raises(JobFailed) as caught:
        again.wait()
    assert caught.value.returncode == 143


def test_a_folder_without_a_job_cannot_be_attached_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="no job was started"):
        attach(tmp_path)


def test_a_job_folder_without_its_files_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"resolved\.yaml is missing"):
        launch("program", tmp_path)
    (tmp_path / "resolved.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match=r"accelerate\.yaml is missing"):
        launch("program", tmp_path)
    assert not (tmp_path / "train.log").exists()


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_code_comes_through_accelerate(start, tmp_path, code):
    (tmp_path / "job" / "accelerate.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\nuse_cpu: true\n"
    )
    job = start(f"import sys; print('here', flush=True); sys.exit({code})", accelerate=True)
    if code:
        with pytest.raises(JobFailed) as caught:
            job.wait()
        assert caught.value.returncode == code
        assert caught.value.log_tail == "here"
    else:
        job.wait()
    assert sys.executable in job.process.args
    assert str(os.getpid()) in job.process.args
