"""A server with vLLM's endpoints and a real model behind them, made to misbehave on demand.

It generates with transformers and loads weights with the package's own worker extension, so that everything a
trainer can see of a healthy server is true: log-probabilities, versions, changed answers. It writes
`server.json` into FOLDER as the keeper does.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from r1kit.runs.files import write_json_atomic
from r1kit.serving.weights import WeightVersions


class Worker(WeightVersions):
    """vLLM's worker with the extension; `frozen` says that it loads and does not."""

    def __init__(self, model: str, frozen: bool):
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.frozen = frozen

    def reload_weights(self, weights_path: str) -> None:
        if not self.frozen:
            self.model.load_state_dict(load_file(Path(weights_path) / "model.safetensors"), strict=False)

    @torch.no_grad()
    def complete(self, prompts: list[list[int]], n: int, max_tokens: int, temperature: float) -> list[dict]:
        """`n` completions a prompt with the log-probability of each token, prompt-major."""
        rows = [list(prompt) for prompt in prompts for _ in range(n)]
        width = max(map(len, rows))
        eos = self.model.config.eos_token_id
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        tokens: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        done = [False] * len(rows)
        for _ in range(max_tokens):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self.model(ids, attention_mask=mask, position_ids=positions).logits[:, -1]
            scores = torch.log_softmax(logits / temperature, dim=-1)
            drawn = torch.multinomial(scores.exp(), 1)
            for i, token in enumerate(drawn[:, 0].tolist()):
                if not done[i]:
                    tokens[i].append(token)
                    logprobs[i].append(scores[i, token].item())
                    done[i] = token == eos
            if all(done):
                break
            ids = torch.cat([ids, drawn], dim=1)
            mask = torch.cat([mask, torch.ones_like(drawn)], dim=1)
        return [
            {
                "prompt_token_ids": rows[i],
                "token_ids": tokens[i],
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

    def do_GET(self) -> None:
        options = self.server.options
        if self.path == "/health":
            self.answer({})
        elif self.path == "/v1/models":
            self.answer({"data": [{"id": options.serve or options.model}]})
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
            self.server.generations += 1
            (options.folder / "generations").write_text(str(self.server.generations))
            if self.server.generations == options.die_at:
                os.kill(os.getpid(), 9)
            if self.server.generations == options.hang_at:
                time.sleep(3600)
            with self.server.lock:
                choices = worker.complete(body["prompt"], body["n"], body["max_tokens"], body["temperature"])
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
    """A server that listens, and whose state stands in `options.folder`/server.json."""
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True
    server.options, server.generations, server.lock = options, 0, threading.Lock()
    server.worker = Worker(options.model, options.frozen)
    state = {
        "state": "ready", "message": "", "urls": [f"http://127.0.0.1:{server.server_port}"],
        "pids": [os.getpid()], "model": options.serve or options.model, "restarts": options.restarts,
        "started": time.time(),
    }  # fmt: skip
    write_json_atomic(options.folder / "server.json", state)
    return server


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a misbehaviour."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--serve", default="", help="say that this model is served")
    parser.add_argument("--logprobs-mode", default="processed_logprobs")
    parser.add_argument("--die-at", type=int, default=0, help="kill itself in this generation")
    parser.add_argument("--hang-at", type=int, default=0, help="never answer this generation")
    parser.add_argument("--frozen", action="store_true", help="say that weights were loaded, and do not")
    parser.add_argument("--no-development", action="store_true")
    parser.add_argument("--weight-transfer", action="store_true")
    parser.add_argument("--restarts", type=int, default=0, help="what server.json says")
    return parser.parse_args(arguments)


def main() -> None:
    """Serve until killed."""
    options = parse()
    torch.manual_seed(options.restarts)
    torch.set_num_threads(1)
    serve(options).serve_forever()


if __name__ == "__main__":
    main()
