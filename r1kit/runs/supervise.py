"""`python -m r1kit.runs.supervise --owner PID --folder JOB --grace S [--timeout S] -- CMD...`

Appends the output of CMD to JOB/train.log, adds a row about the machine to JOB/system.jsonl every 5 seconds,
and leaves nothing behind: when the owner (a notebook kernel) dies, on SIGTERM, SIGINT or SIGHUP, after the
timeout, and when CMD ends but its children do not, the whole tree is ended, whatever it did to run away
(setsid, nohup, ignored signals). JOB/status.json tells the end.

It is two processes. The *worker* does the work. The *guard* around it waits, passes signals on, and inherits
the tree if somebody kills the worker with SIGKILL; the worker in turn ends the job if the guard is killed.
A job starts when nothing of an earlier one in its folder is left: whoever kills a notebook and goes on at
once would have two trainers write the same checkpoints, the old one its last.

Killing both at one stroke still sends SIGTERM to CMD itself (PR_SET_PDEATHSIG), but nobody is left to see to
its children: a training program can close that gap with `processes.end_with_parent()`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from r1kit.machine.resources import Monitor
from r1kit.runs import jsonl, outcome, processes, status, weight_versions
from r1kit.runs.files import read_json

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAMPLE_SECONDS = 5.0  # between two rows of system.jsonl
SAMPLE_SHARE = 0.005  # of one core: a source that needs a process per sample is asked less often
TICK = 1.0  # seconds between two samples of memory; on Linux events wake the worker at once
POLL = 0.25  # the same where the end of another process can only be polled
ENDING = 15.0  # seconds that an earlier job may need beyond the grace, as `launch.MARGIN`
HEARTBEAT = 5.0  # seconds between two writes of status.json


def main(argv: list[str] | None = None) -> int:
    """Parse, fork into guard and worker, and return the job's exit code (see `outcome`)."""
    parser = argparse.ArgumentParser(
        prog="python -m r1kit.runs.supervise", description="Leave no child behind."
    )
    parser.add_argument("--owner", type=int, default=0, help="end the job when this process dies (0: nobody)")
    parser.add_argument("--folder", type=Path, required=True, help="for train.log and status.json")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--timeout", type=float, default=None, help="end the job after so many seconds")
    parser.add_argument(
        "--depth", type=int, default=1, help="generations to hear SIGTERM first; 2 for a launcher"
    )
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    _detach_stdio(options.folder / "train.log")
    if not processes.locked(sys.stdout.fileno(), options.grace + ENDING):
        print(
            f"r1kit.runs.supervise: a job that was started before still works in {options.folder}", flush=True
        )
        return 1
    state = status.read(options.folder)
    # A notebook keeps the state of its own folder while it lives; then only `job` is ours to write.
    options.owner_keeps_state = (
        bool(options.owner) and state.get("pid") == options.owner and state.get("state") == "running"
    )
    options.token, options.started = secrets.token_hex(8), time.time()
    adopts = processes.become_subreaper()
    # Held back until the handlers stand: a signal between fork and handler must not be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            code = work(options, guard)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return watch_over(worker, options, adopts)


def watch_over(worker: int, options: argparse.Namespace, adopts: bool) -> int:
    """The guard: pass signals to the worker, wait for it, end the tree in its place if it was killed."""

    def forward(number: int, _frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in SIGNALS:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _, state = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(state)
    if code >= 0:
        return code
    tree = processes.Tree(options.token, adopts)
    job = (read_json(options.folder / "status.json", {}).get("job") or {}) | {
        "clean": tree.end(tree.processes(), options.grace),
        "seconds": round(time.time() - options.started, 3),
    }
    return _finish(options, job, -9, "supervisor killed")


def work(options: argparse.Namespace, guard: int) -> int:
    """The worker: start CMD, wait for its end or a reason to end it, end the tree, write status.json."""
    received: list[str] = []
    wake = _wake_on_signals(received)
    tree = processes.Tree(
        options.token, processes.become_subreaper()
    )  # fork does not pass that on from the guard
    log, oom_before = options.folder / "train.log", processes.oom_kills()
    job: dict[str, Any] = {
        "state": "running", "pid": guard, "returncode": None, "ended_by": None, "clean": None, "seconds": 0.0,
        "peak_rss_bytes": 0, "command": options.command, "log_offset": log.stat().st_size,
    }  # fmt: skip
    top = {} if options.owner_keeps_state else {"state": "running", "pid": guard, "started": options.started}
    status.update(options.folder, **top, job=job)
    handles, watched = _watch({"owner died": options.owner, "supervisor killed": guard}, received)
    try:
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            env=os.environ | {processes.TOKEN: options.token},
            preexec_fn=processes.end_with_parent,
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"OSError: cannot start {options.command[0]}: {error}", file=sys.stderr, flush=True)
        return _finish(options, job | {"clean": True}, 1, None)
    stop_sampling = start_sampling(options.folder, lambda: {"job_rss_bytes": tree.rss_bytes})
    pause = TICK if tree.adopts and len(handles) == len(watched) else POLL
    beat = 0.0
    while not received:
        select.select([wake, *handles], [], [], pause)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        tree.reap()
        if child.pid in tree.exit_codes:
            break
        tree.sample()
        received += [reason for reason, process in watched.items() if not processes.alive(process)]
        now = time.time()
        if options.timeout and now - options.started > options.timeout:
            received.append("timeout")
        if now - beat > HEARTBEAT:
            beat = now
            job |= {"seconds": round(now - options.started, 3), "peak_rss_bytes": tree.peak_rss_bytes}
            with contextlib.suppress(OSError):  # a full disk must not end the training
                status.update(options.folder, durable=False, job=job)
    # Who asked is settled now; signals that come later change nothing, the end is under way.
    ended_by = None if child.pid in tree.exit_codes else received[0]
    main_ones = [] if ended_by is None else tree.generations(child.pid, options.depth)
    clean = tree.end(main_ones, options.grace)
    stop_sampling()
    child.returncode = tree.exit_codes.get(child.pid, -9)  # reaped by the tree, behind Popen's back
    job |= {
        "clean": clean,
        "seconds": round(time.time() - options.started, 3),
        "peak_rss_bytes": tree.peak_rss_bytes,
    }
    return _finish(options, job, child.returncode, ended_by, oom_kills=processes.oom_kills() - oom_before)


def _finish(
    options: argparse.Namespace, job: dict[str, Any], raw: int, ended_by: str | None, *, oom_kills: int = 0
) -> int:
    """Write the end into status.json and return the exit code; free shared memory of killed trainers."""
    weight_versions.sweep(weight_versions.shared_root())
    log = outcome.read_tail(options.folder / "train.log", offset=job.get("log_offset", 0))
    stated = options.folder / "exit.json"  # written by our training programs; an old one says nothing
    fresh = stated.exists() and stated.stat().st_mtime >= options.started
    code, message = outcome.classify(
        raw, ended_by, log, oom_kills=oom_kills, stated=read_json(stated) if fresh else None
    )
    state = "completed" if code == 0 else "interrupted" if code in (129, 130, 143) else "failed"
    job = job | {"state": state, "returncode": code, "ended_by": ended_by, "message": message}
    ours = not options.owner_keeps_state or ended_by == "owner died"
    try:
        status.update(options.folder, **({"state": state, "message": message} if ours else {}), job=job)
    except OSError as error:
        print(f"r1kit.runs.supervise: {error}", file=sys.stderr, flush=True)
    return code


def _wake_on_signals(received: list[str]) -> int:
    """Note signals in `received`; the file descriptor returned becomes readable at each, SIGCHLD included."""
    wake, wake_in = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wake_in, False)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: received.append(signal.Signals(number).name))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return wake


def _watch(pids: dict[str, int], received: list[str]) -> tuple[list[int], dict[str, psutil.Process]]:
    """Handles to select on and processes to look at; what is gone already is a reason received."""
    handles, watched = [], {}
    for reason, pid in pids.items():
        if not pid:
            continue
        try:
            watched[reason] = psutil.Process(pid)
            handle = processes.wait_handle_for(pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            received.append(reason)
            continue
        if handle is not None:
            handles.append(handle)
    return handles, watched


def _detach_stdio(log: Path) -> None:
    """Read nothing, write to the log: whoever started us may close his ends, or never read them."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for descriptor in {nothing, output} - {0, 1, 2}:
        os.close(descriptor)


def sampling_pause(cost: float, seconds: float = SAMPLE_SECONDS) -> float:
    """Seconds to the next sample, after one that took `cost` seconds."""
    return max(seconds, cost / SAMPLE_SHARE)


def start_sampling(
    folder: Path, extra: Callable[[], dict[str, Any]] = dict, seconds: float = SAMPLE_SECONDS
) -> Callable:
    """Sample into `folder`/system.jsonl until the returned function is called; it writes the last row.

    `extra` adds what the supervisor knows of its job. Rows hold `time` (unix seconds) and `cost` (the seconds
    this sample took).
    """
    ended = threading.Event()
    path = folder / "system.jsonl"

    def sample(monitor: Monitor) -> float:
        began = time.perf_counter()
        row = {"time": round(time.time(), 3), **extra(), **monitor.read()}
        cost = time.perf_counter() - began
        with contextlib.suppress(OSError):  # a full disk must not end the training
            jsonl.append(path, row | {"cost": round(cost, 5)})
        return cost

    def work() -> None:
        monitor = Monitor()
        while True:
            cost = sample(monitor)
            if ended.wait(sampling_pause(cost, seconds)):
                break
        if cost < 0.1:  # the last row must not keep anybody waiting
            sample(monitor)

    thread = threading.Thread(target=work, name="system.jsonl", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join(1.0)

    return stop


if __name__ == "__main__":
    sys.exit(main())
