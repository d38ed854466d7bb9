"""`python -m r1kit.runs.supervise --owner PID --folder JOB --grace S [--timeout S] -- CMD...`

Appends the output of CMD to JOB/train.log, adds a row about the machine to JOB/system.jsonl every 5 seconds,
and leaves no process behind: when the owner (a notebook kernel) dies, on SIGTERM, SIGINT or SIGHUP, after the
timeout, and when CMD ends but its children do not, it ends the whole tree, also processes that left it
(setsid, nohup, ignored signals). JOB/status.json records the end.

It is two processes. The *worker* starts and watches CMD. The *guard* around it waits, passes signals on, and
inherits the tree if the worker is killed with SIGKILL; the worker in turn ends the job if the guard is
killed. A job starts only when no process of an earlier job in its folder is left: otherwise a notebook that
is killed and resumed at once would have two trainers that write the same checkpoints.

If both are killed at the same moment, CMD itself still gets SIGTERM (PR_SET_PDEATHSIG), but its children
survive, unless the program calls `processes.end_with_parent()` in them.
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
from r1kit.runs.files import lock_within, read_json
from r1kit.runs.outcome import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAMPLE_SECONDS = 5.0  # between two rows of system.jsonl
SAMPLE_SHARE = 0.005  # of one core: a source that needs a process per sample is read less often
TICK_SECONDS = 1.0  # between two samples of memory; on Linux events wake the worker at once
POLL_SECONDS = 0.25  # the same where the end of another process can only be polled
PREDECESSOR_SECONDS = 15.0  # beyond the grace, for an earlier job to end; as `launch.MARGIN_SECONDS`
HEARTBEAT_SECONDS = 5.0  # between two writes of status.json


def main(argv: list[str] | None = None) -> int:
    """Parse, fork into guard and worker, and return the job's exit code (see `outcome`)."""
    parser = argparse.ArgumentParser(
        prog="python -m r1kit.runs.supervise", description="Leave no child behind."
    )
    parser.add_argument("--owner", type=int, default=0, help="end the job when this process dies (0: none)")
    parser.add_argument("--folder", type=Path, required=True, help="for train.log and status.json")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--timeout", type=float, default=None, help="end the job after this many seconds")
    parser.add_argument(
        "--depth", type=int, default=1, help="generation that gets SIGTERM first; 2 for a launcher's child"
    )
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    _detach_stdio(options.folder / "train.log")
    if not lock_within(sys.stdout.fileno(), options.grace + PREDECESSOR_SECONDS):
        print(f"r1kit.runs.supervise: an earlier job is still running in {options.folder}", flush=True)
        return ExitCode.FAILED
    state = status.read(options.folder)
    # A notebook keeps the state of its own folder while it lives; the supervisor then writes only `job`.
    options.owner_keeps_state = (
        bool(options.owner) and state.get("pid") == options.owner and state.get("state") == "running"
    )
    options.token, options.started = secrets.token_hex(8), time.time()
    adopts = processes.become_subreaper()
    # Blocked until the handlers are installed: a signal between fork and handler must not be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    guard = os.getpid()
    worker = os.fork()
    if worker == 0:
        code = ExitCode.FAILED
        try:
            code = work(options, guard)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return watch_over(worker, options, adopts)


def watch_over(worker: int, options: argparse.Namespace, adopts: bool) -> int:
    """Act as the guard: pass signals to the worker, wait for it, end the tree if the worker was killed."""

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
    return _finish(options, job, -signal.SIGKILL, "supervisor killed")


def work(options: argparse.Namespace, guard: int) -> int:
    """Act as the worker: start CMD, wait for its end or a reason to end it, end the tree, record the end."""
    reasons: list[str] = []  # to end the job
    wake = _wake_on_signals(reasons)
    # fork does not pass adoption on from the guard
    tree = processes.Tree(options.token, processes.become_subreaper())
    log, oom_before = options.folder / "train.log", processes.oom_kills()
    job: dict[str, Any] = {
        "state": "running", "pid": guard, "returncode": None, "ended_by": None, "clean": None, "seconds": 0.0,
        "peak_rss_bytes": 0, "command": options.command, "log_offset": log.stat().st_size,
    }  # fmt: skip
    top = {} if options.owner_keeps_state else {"state": "running", "pid": guard, "started": options.started}
    status.update(options.folder, **top, job=job)
    handles, watched = _watch({"owner died": options.owner, "supervisor killed": guard}, reasons)
    try:
        child = subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            env=os.environ | {processes.TOKEN: options.token},
            preexec_fn=processes.end_with_parent,
        )
    except (OSError, subprocess.SubprocessError) as error:
        print(f"OSError: cannot start {options.command[0]}: {error}", file=sys.stderr, flush=True)
        return _finish(options, job | {"clean": True}, ExitCode.FAILED, None)
    stop_sampling = start_sampling(options.folder, lambda: {"job_rss_bytes": tree.rss_bytes})
    pause = TICK_SECONDS if tree.adopts and len(handles) == len(watched) else POLL_SECONDS
    beat = 0.0
    while not reasons:
        select.select([wake, *handles], [], [], pause)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        tree.reap()
        if child.pid in tree.exit_codes:
            break
        tree.sample()
        reasons += [reason for reason, process in watched.items() if not processes.alive(process)]
        now = time.time()
        if options.timeout and now - options.started > options.timeout:
            reasons.append("timeout")
        if now - beat > HEARTBEAT_SECONDS:
            beat = now
            job |= {"seconds": round(now - options.started, 3), "peak_rss_bytes": tree.peak_rss_bytes}
            with contextlib.suppress(OSError):  # a full disk must not end the training
                status.update(options.folder, durable=False, job=job)
    # Only the first reason counts; later signals change nothing, the end is under way.
    ended_by = None if child.pid in tree.exit_codes else reasons[0]
    main_processes = [] if ended_by is None else tree.generations(child.pid, options.depth)
    clean = tree.end(main_processes, options.grace)
    stop_sampling()
    child.returncode = tree.exit_codes.get(child.pid, -signal.SIGKILL)  # `tree` has reaped it, not Popen
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
    report = options.folder / "exit.json"  # the training program's; one of an earlier job is ignored
    fresh = report.exists() and report.stat().st_mtime >= options.started
    code, message = outcome.classify(
        raw, ended_by, log, oom_kills=oom_kills, reported=read_json(report) if fresh else None
    )
    interrupted = code in (ExitCode.HANGUP, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
    state = "completed" if code == ExitCode.DONE else "interrupted" if interrupted else "failed"
    job = job | {"state": state, "returncode": code, "ended_by": ended_by, "message": message}
    top = {"state": state, "message": message}
    try:
        owner_writes = options.owner_keeps_state and ended_by != "owner died"
        status.update(options.folder, **({} if owner_writes else top), job=job)
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


def _watch(pids: dict[str, int], reasons: list[str]) -> tuple[list[int], dict[str, psutil.Process]]:
    """Return handles to select on and processes to poll; one that is gone already becomes a reason."""
    handles, watched = [], {}
    for reason, pid in pids.items():
        if not pid:
            continue
        try:
            watched[reason] = psutil.Process(pid)
            handle = processes.wait_handle_for(pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            reasons.append(reason)
            continue
        if handle is not None:
            handles.append(handle)
    return handles, watched


def _detach_stdio(log: Path) -> None:
    """Read from /dev/null and write to the log, so that a pipe that is closed or never read cannot block."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for descriptor in {nothing, output} - {0, 1, 2}:
        os.close(descriptor)


def sampling_pause(cost: float) -> float:
    """Return the seconds to the next sample, after one that took `cost` seconds."""
    return max(SAMPLE_SECONDS, cost / SAMPLE_SHARE)


def start_sampling(folder: Path, extra: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Sample into `folder`/system.jsonl until the returned function is called; it writes the last row.

    `extra` adds the supervisor's values about its job. Rows hold `time` (unix seconds) and `cost` (the
    seconds this sample took).
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

    def loop() -> None:
        monitor = Monitor()
        while True:
            cost = sample(monitor)
            if ended.wait(sampling_pause(cost)):
                break
        if cost < 0.1:  # a slow last row would delay the end
            sample(monitor)

    thread = threading.Thread(target=loop, name="system.jsonl", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join(1.0)

    return stop


if __name__ == "__main__":
    sys.exit(main())
