"""A server with vLLM's endpoints and a real model behind them, made to misbehave on demand.

It loads weights with the package's own worker extension, so that everything a trainer can see of a healthy
server is true: log-probabilities, versions, changed answers. What it samples depends on the weights' version
alone, so that an interrupted training can be compared with a whole one bit by bit.

FOLDER holds `generations`, how many were asked so far, over all starts, and `orders.json`, what happens in
which of them: {"4": "die"} (SIGKILL), "hang" (never answered), "hold" (not before the order is taken back),
"freeze" (from then on it says that it has loaded new weights, and does not).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.weight_versions import model_fingerprint
from r1kit.serving.weights import WeightVersions
from tests.training.small_qwen2 import SmallQwen2


class Worker(WeightVersions):
    """vLLM's worker with the extension; `frozen` says that it loads and does not."""

    def __init__(self, model: str):
        self.model = SmallQwen2(model)
        self.eos = read_json(Path(model) / "config.json")["eos_token_id"]
        self.frozen = False

    def reload_weights(self, weights_path: str) -> None:
        if not self.frozen:
            self.model.load(Path(weights_path) / "model.safetensors")

    def complete(
        self, prompts: list[list[int]], n: int, max_tokens: int, temperature: float, seed: int = 0
    ) -> list[dict]:
        """`n` completions a prompt with the log-probability of each token, prompt-major."""
        rows = [list(prompt) for prompt in prompts for _ in range(n)]
        width = max(map(len, rows))
        torch.manual_seed(max(self.r1kit_version()["step"], 0) + seed)
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        tokens: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        done = [False] * len(rows)
        for _ in range(max_tokens):
            scores = torch.log_softmax(self.model.last_logits(ids, mask) / temperature, dim=-1)
            drawn = torch.multinomial(scores.exp(), 1)
            for i, token in enumerate(drawn[:, 0].tolist()):
                if not done[i]:
                    tokens[i].append(token)
                    logprobs[i].append(scores[i, token].item())
                    done[i] = token == self.eos
            if all(done):
                break
            ids = torch.cat([ids, drawn], dim=1)
            mask = torch.cat([mask, torch.ones_like(drawn)], dim=1)
        return [
            {
                "prompt_token_ids": rows[i],
                "token_ids": tokens[i],
                "finish_reason": "stop" if done[i] else "length",
                "logprobs": {
                    "tokens": [f"token_id:{token}" for token in tokens[i]],
                    "token_logprobs": logprobs[i],
                    "top_logprobs": [{} for _ in tokens[i]],
                },
            }
            for i in range(len(rows))
        ]


class Handler(BaseHTTPRequestHandler):
    """One request; `self.server` carries worker, options and counters."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for an acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)

    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def order(self, generation: int) -> str:
        """What is to happen in a generation; "" for nothing."""
        return read_json(self.server.options.folder / "orders.json", {}).get(str(generation), "")

    def do_GET(self) -> None:
        options = self.server.options
        if self.path == "/health":
            self.answer({})
        elif self.path == "/v1/models":
            self.answer({"data": [{"id": options.serve or options.model}]})
        elif self.path == "/get_world_size":
            self.answer({"world_size": 1})
        elif self.path.startswith("/server_info") and not options.no_development:
            transfer = {"backend": "nccl"} if options.weight_transfer else None
            model = {"model": options.serve or options.model, "logprobs_mode": options.logprobs_mode}
            self.answer({"vllm_config": {"model_config": model, "weight_transfer_config": transfer}})
        else:
            self.answer({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        options, worker = self.server.options, self.server.worker
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        if self.path == "/v1/completions":
            with self.server.lock:
                count = int(read_json(options.folder / "generations", 0)) + 1
                write_json_atomic(options.folder / "generations", count)
            order = self.order(count)
            if order == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if order == "hang":
                time.sleep(3600)
            while order == "hold" and self.order(count) == "hold":
                time.sleep(0.02)
            worker.frozen = worker.frozen or order == "freeze"
            with self.server.lock:
                asked = (body[name] for name in ("prompt", "n", "max_tokens", "temperature"))
                choices = worker.complete(*asked, body.get("seed", 0))
            self.answer({"choices": choices})
        elif options.no_development:
            self.answer({"detail": "Not Found"}, 404)
        elif self.path == "/reset_prefix_cache":
            self.answer({"success": True})
        elif self.path == "/collective_rpc":
            with self.server.lock:
                self.answer({"results": [getattr(worker, body["method"])(**body["kwargs"])]})
        else:
            self.answer({"detail": "Not Found"}, 404)


def serve(options: argparse.Namespace) -> ThreadingHTTPServer:
    """A server that listens; with `--state` it is a keeper too, and writes server.json."""
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.daemon_threads = True
    server.options, server.lock = options, threading.Lock()
    server.worker = Worker(options.model)
    if options.state:
        state = {
            "state": "ready", "message": "", "urls": [f"http://{options.host}:{server.server_port}"],
            "pids": [os.getpid()], "model": options.serve or options.model,
            "fingerprint": model_fingerprint(options.serve or options.model), "restarts": 0,
        }  # fmt: skip
        write_json_atomic(options.folder / "server.json", state)
    return server


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options: some are vLLM's, the others say what is wrong with it. vLLM's others are passed over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=os.environ.get("STAND_IN_FOLDER"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--logprobs-mode", default="processed_logprobs")
    parser.add_argument("--serve", default="", help="say that this model is served")
    parser.add_argument("--no-development", action="store_true")
    parser.add_argument("--weight-transfer", action="store_true")
    parser.add_argument("--state", action="store_true")
    return parser.parse_known_args(arguments)[0]


def main() -> None:
    """Serve until killed."""
    options = parse()
    options.folder = Path(options.folder)
    torch.set_num_threads(1)
    serve(options).serve_forever()


if __name__ == "__main__":
    main()
