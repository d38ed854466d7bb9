"""A chat endpoint that answers deterministically and misbehaves on request, for tests; nothing of it is real.

`python -m tests.data.odd_endpoint` serves until it is killed and prints its port. The answer to a problem
`What is a + b?` is right or, by its seed, wrong; to `Write a program ...` it is a program that prints it.
A misbehaviour is a rule `(nth such request, body) -> kind`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Misbehaviour = Callable[[int, dict], str]


def answer_to(body: dict) -> tuple[str, str]:
    """(reasoning, content): the same for the same request."""
    problem = body["messages"][-1]["content"]
    seed = f"{problem} {body.get('seed')} {body.get('temperature')}"
    drawn = hashlib.sha256(seed.encode()).digest()[0]
    first, second = (int(word.strip("?")) for word in problem.split() if word.strip("?").isdigit())
    value = first + second + (1 if drawn < 64 else 0)
    said = f"```python\nprint({value})\n```" if "program" in problem else f"The sum is \\boxed{{{value}}}."
    return f"We add {first} and {second} (drawn {drawn}).", said


class Endpoint(ThreadingHTTPServer):
    """The server; `requests` are the bodies it got, `keys` the Authorization headers."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, misbehave: Misbehaviour, form: str = "field", delay: float = 0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.misbehave, self.form, self.delay = misbehave, form, delay
        self.requests: list[dict] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.counts: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The endpoint as a user writes it."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients go away in the middle; that is what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(body)
            server.times.append(time.monotonic())
            server.keys.add(self.headers.get("Authorization"))
            problem = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
            problem = f"{problem} {body.get('seed')}"
            server.counts[problem] += 1
            kind = server.misbehave(server.counts[problem], body)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        time.sleep(server.delay)
        with server.lock:  # before answering: the client may ask again before we would get there
            server.in_flight -= 1
        self.respond(kind, body)

    def respond(self, kind: str, body: dict):
        if kind.isdigit():
            return self.send(int(kind), json.dumps({"error": {"message": f"status {kind}, as told"}}))
        if kind.startswith("429 "):
            return self.send(429, "busy", {"Retry-After": kind.removeprefix("429 ")})
        if kind == "silent":
            time.sleep(30)
            return None
        if kind == "garbled":
            return self.send(200, '{"choices": [{"mess')
        if "prompt" in body:  # token ids, as vLLM takes them: its answer is the prompt backwards
            ids = body["prompt"][0][::-1]
            choice = {"text": "", "token_ids": ids, "prompt_token_ids": ids[::-1], "finish_reason": "stop"}
            choice["logprobs"] = {"token_logprobs": [-0.5] * len(ids)}
            return self.send(200, json.dumps({"choices": [choice]}))
        reasoning, content = answer_to(body)
        finish = "length" if kind == "truncated" else "stop"
        message = self.message("" if kind == "bare" else reasoning, content)
        usage = {"prompt_tokens": 9, "completion_tokens": len(reasoning + content)}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            text = json.dumps({"choices": [choice], "usage": usage})
            if kind == "cut":
                self.send(200, text, {"Content-Length": str(len(text) + 100)})
                self.close_connection = True
                return None
            return self.send(200, text)
        return self.stream(kind, message, finish, usage)

    def message(self, reasoning: str, content: str) -> dict:
        form = self.server.form
        if not reasoning:
            return {"role": "assistant", "content": content}
        if form in ("reasoning", "reasoning_content"):
            return {"role": "assistant", "content": content, form: reasoning}
        opened = "" if form == "begun" else "<think>\n"
        return {"role": "assistant", "content": f"{opened}{reasoning}\n</think>\n\n{content}"}

    def stream(self, kind: str, message: dict, finish: str, usage: dict):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        deltas = [
            {name: value[start : start + 5]}
            for name, value in message.items()
            if name != "role"
            for start in range(0, len(value), 5)
        ]
        for number, delta in enumerate(deltas):
            if number == 3:
                self.wfile.write(b": keep-alive\n\n")
                if kind == "cut":
                    return
                if kind == "garbled event":
                    self.wfile.write(b'data: {"choices": [{"del\n\n')
                if kind == "error event":
                    self.wfile.write(b'data: {"error": {"message": "engine died"}}\n\n')
                    return
            self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, content: dict):
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def send(self, status: int, text: str, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text))}.items():
            if name not in (headers or {}):
                self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        """Silence."""


@contextmanager
def serving(
    misbehave: Misbehaviour = lambda nth, body: "", form: str = "reasoning_content", delay: float = 0.0
) -> Iterator[Endpoint]:
    """The endpoint in a thread of this process."""
    server = Endpoint(misbehave, form, delay)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    odd = Endpoint(lambda nth, body: "", "reasoning_content", delay=float(sys.argv[1]))
    print(odd.server_port, flush=True)
    odd.serve_forever()
