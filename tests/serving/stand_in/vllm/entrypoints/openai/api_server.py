"""A server with vLLM's command line, /health and /v1/models, and an engine process that holds shared memory.

STAND_IN says how it misbehaves: `fails` (as vLLM does when the engine cannot start), `never` (starts for
ever), `other` (serves another model), `fragile` (ends with code 7 once it was asked for its models),
`stubborn` (its engine ignores SIGTERM).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = os.environ.get("STAND_IN", "")
ENGINE = """
import signal, sys, time
from multiprocessing import shared_memory
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
block = shared_memory.SharedMemory(create=True, size=4096)
print("block", block.name, flush=True)
time.sleep(600)
"""
ENGINE_SAYS = "(EngineCore pid=7) ERROR 11-24 06:43:38 [core.py:900] "
FAILURE = (
    f"{ENGINE_SAYS}EngineCore failed to start.\n"
    f"{ENGINE_SAYS}Traceback (most recent call last):\n"
    f"{ENGINE_SAYS}ValueError: To serve at least one request with the model's max seq len (4096), 1.0 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (0.5 GiB).\n"
    "(APIServer pid=6) Traceback (most recent call last):\n"
    "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.\n"
)


class Handler(BaseHTTPRequestHandler):
    """Answers two questions."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(None)
        elif self.headers.get("Authorization") != f"Bearer {os.environ.get('VLLM_API_KEY')}":
            self.send_error(401)
        else:
            self.answer({"data": [{"id": "another/model" if MODE == "other" else self.server.model}]})
            if MODE == "fragile":
                threading.Timer(0.5, os._exit, [7]).start()

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode() if content else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "host", "worker-extension-cls", "logprobs-mode"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()
    print(
        "(APIServer pid=6) INFO 11-24 06:43:38 [model.py:699] Resolved architecture: Qwen2ForCausalLM",
        flush=True,
    )
    if MODE == "fails":
        print(FAILURE, file=sys.stderr, flush=True)
        sys.exit(1)
    if MODE == "never":
        signal.pause()
    subprocess.Popen([sys.executable, "-c", ENGINE, MODE])
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.model = options.model
    server.serve_forever()


if __name__ == "__main__":
    main()
