"""A server starts, is ready, dies, comes back and ends; the stand-in takes vLLM's place (see conftest)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from r1kit.runs.launch import JobFailed
from r1kit.serving.server import RESTART, ask_restart
from r1kit.serving.session import ServerRefused, Session, healthy, served_model
from tests.serving.conftest import STAND_IN, block_of, processes_of, wait_for


@pytest.mark.slow
def test_a_ready_server_says_where_it_is_and_ends_with_all_it_started(start):
    server = start()
    asyncio.run(server.ready())
    state, processes = server.state, processes_of(server)
    assert state["state"] == "ready"
    assert state["restarts"] == 0
    assert state["model"].endswith("/model")
    assert served_model(Session(key=server.key), server.urls[0]) == state["model"]
    wait_for(lambda: block_of(server).exists())
    block = block_of(server)
    server.stop()
    assert not [process for process in processes if process.is_running()]
    assert not block.exists(), "shared memory of the engine was leaked"
    assert server.state["state"] == "stopped"
    assert server.state["pids"] == []


@pytest.mark.slow
def test_the_key_is_asked_for_and_nobody_else_reads_it(start):
    server = start()
    server.wait_ready()
    with pytest.raises(ServerRefused, match="401"):
        served_model(Session(key="wrong"), server.urls[0])
    assert stat.S_IMODE((server.folder / "api_key").stat().st_mode) == 0o600
    commands = [" ".join(process.cmdline()) for process in processes_of(server)]
    assert not any(server.key in command for command in commands)


@pytest.mark.slow
def test_several_replicas_have_addresses_of_their_own(start):
    server = start(replicas=2)
    server.wait_ready()
    assert len(set(server.urls)) == 2
    assert len(server.state["pids"]) == 2
    assert all(healthy(Session(), url) for url in server.urls)


@pytest.mark.slow
def test_a_killed_server_comes_back_at_its_address_without_its_old_engine(start):
    server = start("stubborn", restart=True, restarts=1)
    server.wait_ready()
    wait_for(lambda: block_of(server).exists())
    url, block, (_, *old) = server.urls[0], block_of(server), processes_of(server)
    os.kill(server.state["pids"][0], signal.SIGKILL)
    wait_for(lambda: server.state["state"] == "restarting")
    server.wait_ready()
    assert server.urls == [url]
    assert server.state["restarts"] == 1
    assert not [process for process in old if process.is_running()]
    assert not block.exists()
    os.kill(server.state["pids"][0], signal.SIGKILL)
    wait_for(lambda: server.job.poll() is not None)
    assert "killed by signal 9" in server.state["message"]
    assert "started again 1 times already" in server.state["message"]


@pytest.mark.slow
def test_without_restart_a_dead_server_ends_the_job_and_says_so(start):
    server = start("fragile")
    server.wait_ready()
    wait_for(lambda: server.job.poll() is not None)
    assert server.job.poll() == 1
    assert server.state["state"] == "failed"
    assert "ended with exit code 7" in server.state["message"]
    assert "server.restart is false" in server.state["message"]


@pytest.mark.slow
def test_a_silent_server_is_taken_for_dead_within_its_bound(start):
    server = start(restart=True, health_seconds=1)
    server.wait_ready()
    first = server.state["pids"][0]
    os.kill(first, signal.SIGSTOP)
    wait_for(lambda: server.state["restarts"] == 1)
    assert "has not answered /health" in (server.folder / "train.log").read_text()
    wait_for(lambda: server.state["state"] == "ready" and not psutil.pid_exists(first))


@pytest.mark.slow
def test_a_server_that_only_its_trainer_knows_to_be_stuck_is_started_again_as_often_as_allowed(start):
    """/health answers all the while; the trainer asks through a file, which a keeper elsewhere sees too."""
    server = start(restart=True, restarts=1)
    server.wait_ready()
    url, (first, *_) = server.urls[0], server.state["pids"]
    ask_restart(server.folder, "accepted /v1/completions and did not answer within 4 s", [first])
    wait_for(lambda: not (server.folder / RESTART).exists())
    server.wait_ready()
    assert server.urls == [url]
    assert server.state["restarts"] == 1
    assert not psutil.pid_exists(first)
    ask_restart(server.folder, "has not answered", [first])
    wait_for(lambda: not (server.folder / RESTART).exists())
    assert server.state["restarts"] == 1, "what was replaced already is not started again"
    ask_restart(server.folder, "accepted /v1/completions and did not answer within 4 s", server.state["pids"])
    wait_for(lambda: server.job.poll() is not None)
    assert server.job.poll() == 4
    assert "did not answer within 4 s" in server.state["message"]


@pytest.mark.slow
def test_weights_of_a_killed_trainer_are_freed_by_the_keeper(start, tmp_path):
    program = (
        "import os, pathlib, sys; from r1kit.runs.weight_versions import sync_folder; "
        "print(sync_folder(sys.argv[1], pathlib.Path('.')), flush=True); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "sync"
    killed = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    start(sync=str(folder)).wait_ready()
    wait_for(lambda: not left.exists())


def test_a_server_that_cannot_start_names_the_root_cause_and_what_to_try(start):
    server = start("fails", restart=True)
    with pytest.raises(JobFailed) as failed:
        server.wait_ready()
    message = failed.value.message
    assert "before it was ready: ValueError: To serve at least one request" in message
    assert "Raise server.kv_cache_gib or lower server.max_model_len" in message
    assert "Engine core initialization failed" in failed.value.log_tail
    assert server.state["restarts"] == 0, "what cannot start is not tried again"


def test_a_start_without_end_is_a_timeout(start):
    server = start("never", start_seconds=0.5)
    with pytest.raises(JobFailed, match=r"still starting after 0\.5 s") as failed:
        server.wait_ready()
    assert failed.value.returncode == 4


def test_a_taken_port_is_refused_with_its_owner_before_anything_starts(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(port=port)
        with pytest.raises(JobFailed, match=f"port {port} is taken by process {os.getpid()}"):
            server.wait_ready()
    assert server.job.poll() == 2
    assert server.state["pids"] == []


def test_another_model_at_the_address_is_not_ours(start):
    server = start("other")
    with pytest.raises(JobFailed, match=r"serves another/model, not .*/model"):
        server.wait_ready()


@pytest.mark.slow
@pytest.mark.failures
def test_a_server_does_not_outlive_the_program_that_started_it(tmp_path):
    program = f"""
import sys, time
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.serving.conftest import machine
from r1kit.serving.server import serve
server = serve({str(tmp_path / "server")!r}, machine(), "some/model")
server.wait_ready()
print(*server.state["pids"], server.state["keeper"], flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    line = next(line for line in owner.stdout if line[0].isdigit())
    pids = [int(word) for word in line.split()]
    owner.kill()
    owner.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.slow
def test_the_command_line_serves_until_it_is_interrupted(tmp_path, profile_with_server):
    command = [sys.executable, "-m", "r1kit", "serve", "--profile", str(profile_with_server)]
    options = ["--model", "some/model", "--json", "--folder", str(tmp_path / "server")]
    shell = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    state = json.loads(shell.stdout.readline())
    assert state["state"] == "ready"
    assert healthy(Session(), state["urls"][0])
    shell.send_signal(signal.SIGINT)
    assert shell.wait(30) == 130
    assert not psutil.pid_exists(state["pids"][0])
    assert not psutil.pid_exists(state["keeper"])
    assert STAND_IN.is_dir()
