"""The Piston client, against a stand-in server in a thread that fails in every way a service can."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1kit.sandbox.piston import PistonClient, client_from_environment, endpoints_for_rank
from r1kit.sandbox.verdicts import Limits, Verdict

OK = {"run": {"stdout": "7\n", "stderr": "", "code": 0, "signal": None, "status": None}}


class StandIn:
    """A server that answers from a script, one entry a request, the last one for ever."""

    def __init__(self, *script):
        self.script, self.requests, self.ended = list(script), [], threading.Event()
        self.at_once, self.most_at_once, self.pair = 0, 0, threading.Barrier(2)
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                stand_in.requests.append("health")
                self.send(200, b"[]")

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.requests.append(body)
                step = stand_in.script.pop(0) if len(stand_in.script) > 1 else stand_in.script[0]
                if step == "hang":
                    stand_in.ended.wait(30)
                elif step == "pair":  # answers two requests together, or not at all
                    stand_in.at_once += 1
                    stand_in.most_at_once = max(stand_in.most_at_once, stand_in.at_once)
                    stand_in.pair.wait(10)
                    stand_in.at_once -= 1
                    self.send(200, json.dumps(OK).encode())
                elif step == "cut":
                    self.send(200, b'{"run": {"stdout": "7', announce=500)
                elif isinstance(step, bytes):
                    self.send(200, step)
                elif isinstance(step, int):
                    self.send(step, b'{"message": "because"}')
                else:
                    self.send(200, json.dumps(step).encode())

            def send(self, status, body, announce=None):
                self.send_response(status)
                self.send_header("Content-Length", str(announce or len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/v2"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def runs(self):
        return [request for request in self.requests if request != "health"]

    def close(self):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(*script):
        servers.append(StandIn(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def client(*servers, **options):
    options = {"pause": 0.01, "rest": 0.05, "margin": 0.1, **options}
    return PistonClient([getattr(server, "url", server) for server in servers], **options)


def dead_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/api/v2"


def test_a_program_runs_and_its_output_comes_back(serve):
    server = serve(OK)
    execution = client(server).execute("cpp", "int main(){}", b"3 4\n")
    assert (execution.verdict, execution.stdout, execution.exit_code) == (Verdict.OK, b"7\n", 0)
    (sent,) = server.runs
    assert sent["language"] == "c++"
    assert sent["files"] == [{"name": "main.cpp", "content": "int main(){}"}]
    assert (sent["stdin"], sent["run_timeout"], sent["run_cpu_time"]) == ("3 4\n", 8000, 4000)
    assert "7" not in json.dumps(sent["files"])  # the expected output is nobody's business but ours


@pytest.mark.parametrize("trouble", [429, 500, 503, "cut", b"<html>", b"[1]", b"[" * 9999, {}, {"run": {}}])
def test_trouble_of_the_service_is_tried_again(serve, trouble):
    server = serve(trouble, OK)
    execution = client(server).execute("python", "print(7)", b"")
    assert execution.verdict is Verdict.OK
    assert len(server.runs) == 2


@pytest.mark.parametrize("trouble", [429, 500, "cut", b"<html>", {"run": {"stdout": "", "status": "XX"}}])
def test_trouble_that_stays_is_infra_and_never_a_failed_program(serve, trouble):
    execution = client(serve(trouble), retries=2).execute("python", "print(7)", b"")
    assert execution.verdict is Verdict.INFRA
    assert execution.detail.startswith("Piston: http://127.0.0.1")


def test_a_server_that_hangs_is_given_up_in_time(serve):
    started = time.monotonic()
    quick = Limits(wall_seconds=0.1)
    hanging = serve("hang")
    patient = client(hanging, serve(OK), retries=3, margin=-9.9)  # 0.2 s altogether
    executions = [patient.execute("python", "print(7)", b"", quick) for _ in range(3)]
    assert [execution.verdict for execution in executions] == [Verdict.OK] * 3
    assert time.monotonic() - started < 5


def test_a_request_that_is_refused_is_not_repeated_and_says_why(serve):
    server = serve(400)
    execution = client(server).execute("cpp", "", b"")
    assert execution.verdict is Verdict.INFRA
    assert "400" in execution.detail
    assert "because" in execution.detail
    assert len(server.runs) == 1


def test_a_dead_endpoint_rests_while_the_others_work(serve):
    server = serve(OK)
    both = client(dead_address(), server, rest=60)
    assert all(both.execute("python", "print(7)", b"").verdict is Verdict.OK for _ in range(6))
    assert len(server.runs) == 6


def test_an_endpoint_comes_back_when_it_is_healthy_again(serve):
    server = serve(500, 500, OK)
    assert client(server, retries=6).execute("python", "print(7)", b"").verdict is Verdict.OK
    assert "health" in server.requests  # open-r1 dropped it for good


def test_when_every_endpoint_is_dead_only_the_first_requests_wait():
    nobody = client(dead_address(), rest=60, retries=4, pause=0.05)
    assert nobody.execute("python", "print(7)", b"").verdict is Verdict.INFRA
    started = time.monotonic()
    assert nobody.execute("python", "print(7)", b"").verdict is Verdict.INFRA
    assert time.monotonic() - started < 0.2


def test_an_endpoint_gets_no_more_requests_at_once_than_agreed(serve):
    server = serve("pair")
    limited = client(server, at_once=2)
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: limited.execute("python", "", b""), range(6)))
    assert [execution.verdict for execution in done] == [Verdict.OK] * 6
    assert server.most_at_once == 2


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        ({"code": 1, "status": "RE"}, Verdict.ERROR),
        ({"code": None, "signal": "SIGKILL", "status": "TO"}, Verdict.TIMEOUT),
        ({"code": None, "signal": "SIGSEGV", "status": "SG"}, Verdict.SIGNAL),
        ({"code": None, "signal": "SIGKILL", "status": "SG", "memory": 10**9}, Verdict.MEMORY),
        ({"code": 0, "status": "OL"}, Verdict.OUTPUT),
        ({"code": 1, "signal": None}, Verdict.ERROR),  # servers that send no status
        ({"code": None, "signal": "SIGKILL"}, Verdict.TIMEOUT),
        ({"code": None, "signal": "SIGABRT"}, Verdict.SIGNAL),
        ({"code": 0, "stdout": "x" * 70_000}, Verdict.OUTPUT),
        # A program may print this to escape its 0; open-r1 read it as an overloaded server.
        ({"code": 1, "stderr": "Resource temporarily unavailable"}, Verdict.ERROR),
    ],
)
def test_how_a_program_ended_becomes_its_verdict(serve, run, verdict):
    answer = {"run": {"stdout": "", "stderr": "", **run}}
    assert client(serve(answer), retries=0).execute("python", "", b"").verdict is verdict


@pytest.mark.parametrize(
    ("stage", "verdict"),
    [
        ({"code": 1, "stderr": "expected ;"}, Verdict.ERROR),
        ({"code": None, "signal": "SIGSEGV"}, Verdict.ERROR),
        ({"code": None, "status": "TO"}, Verdict.TIMEOUT),
    ],
)
def test_a_program_that_does_not_compile_has_failed(serve, stage, verdict):
    execution = client(serve({"compile": stage}), retries=0).execute("cpp", "", b"")
    assert (execution.verdict, execution.detail) == (verdict, "does not compile")


def test_a_program_that_is_no_text_is_refused(serve):
    server = serve(OK)
    assert client(server).execute("python", "'\ud800'", b"").verdict is Verdict.REFUSED
    assert server.runs == []


def test_endpoints_are_dealt_out_over_all_ranks():
    """With LOCAL_RANK over WORLD_SIZE, two nodes used 32 of 64 endpoints and one endpoint fed one rank."""
    many = [f"http://node{number}:2000" for number in range(64)]
    dealt = [endpoints_for_rank(many, rank, 16) for rank in range(16)]
    assert sorted(url for urls in dealt for url in urls) == sorted(many)
    assert all(endpoints_for_rank(many[:1], rank, 8) == many[:1] for rank in range(8))
    assert {endpoints_for_rank(many[:3], rank, 8)[0] for rank in range(8)} == set(many[:3])


def test_the_environment_describes_the_client():
    names = {"PISTON_ENDPOINTS": "http://b:1/api/v2, http://a:1/api/v2/", "RANK": "1", "WORLD_SIZE": "2"}
    chosen = client_from_environment({**names, "PISTON_MAX_REQUESTS_PER_ENDPOINT": "3"})
    assert chosen.workers == 3
    assert [endpoint.url for endpoint in chosen._endpoints] == ["http://b:1/api/v2"]
    for wrong, says in [
        ({}, "PISTON_ENDPOINTS is empty"),
        ({"PISTON_ENDPOINTS": "slurm"}, "found 'slurm'"),
        ({**names, "PISTON_MAX_REQUESTS_PER_ENDPOINT": "0"}, "whole number from 1, found '0'"),
    ]:
        with pytest.raises(ValueError, match=says):
            client_from_environment(wrong)


def test_health_names_each_endpoint(serve):
    server, dead = serve(OK), dead_address()
    assert client(server, dead).health() == {server.url: True, dead: False}
