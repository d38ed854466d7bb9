"""Weights on their way to the server: whole or not there, with a version that is asked back."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from r1kit.runs import weight_versions
from r1kit.runs.files import read_json, write_json_atomic
from r1kit.runs.weight_versions import BadVersion, model_fingerprint, read_version
from r1kit.serving import weight_sync
from r1kit.serving.client import Replicas, ServerClient, connect
from r1kit.serving.session import Bounds, ServerRefused, ServerSilent, ServerTrouble
from r1kit.serving.weight_sync import ChangeNorm, FileTransport, NoRoom, move_one_tensor, write_version
from r1kit.serving.weights import WeightVersions
from r1kit.training.rl.server_connection import ServerConnection, check_model, check_servers, preflight
from r1kit.training.rl.vllm_rollouts import check_drift
from r1kit.training.watchdog import Stopped
from tests.training import stand_in_server
from tests.training.small_qwen2 import SmallQwen2

TENSORS = [
    ("a", torch.arange(12, dtype=torch.float32).reshape(3, 4)),
    ("b", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
    ("empty", torch.zeros(0, 3)),
    ("scalar", torch.tensor(7.0)),
]
METADATA = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in TENSORS]


def test_the_streamed_file_is_what_safetensors_reads(tmp_path):
    version = write_version(tmp_path, 3, METADATA, iter(TENSORS))
    path = tmp_path / version.name / "model.safetensors"
    read = load_file(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS)
    save_file(dict(TENSORS), tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs")
    assert all(torch.equal(read[name], theirs[name]) for name in theirs)
    assert read_version(path.parent) == version


def test_a_torn_or_changed_file_is_not_a_version(tmp_path):
    version = write_version(tmp_path, 1, METADATA, TENSORS)
    path = tmp_path / version.name / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadVersion, match="checksum"):
        read_version(path.parent)
    path.write_bytes(content[:-1])
    with pytest.raises(BadVersion, match="bytes"):
        read_version(path.parent)


def test_a_full_disk_leaves_nothing_of_the_attempt_and_all_of_the_old_version(tmp_path, monkeypatch):
    old = write_version(tmp_path, 1, METADATA, TENSORS)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(weight_sync, "reserve", full)
    with pytest.raises(NoRoom, match="No space left on device"):
        write_version(tmp_path, 2, METADATA, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert read_version(tmp_path / old.name) == old


def test_what_a_killed_trainer_left_in_shared_memory_is_swept(tmp_path):
    program = (
        "import os, pathlib, sys; from r1kit.runs.weight_versions import sync_folder; "
        "print(sync_folder(sys.argv[1], pathlib.Path('.')), flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    dead = Path(killed.stdout.strip())
    assert dead.exists()
    mine = weight_versions.sync_folder(str(tmp_path), tmp_path)
    assert mine.exists()
    assert not dead.exists()
    assert weight_versions.sweep(tmp_path) == []  # a living process's folder, though the number says nothing
    weight_versions.release(mine)
    assert not list(tmp_path.iterdir())


def test_the_change_norm_is_the_distance_between_two_syncs_and_stays_when_one_is_repeated():
    weights = {"w": torch.zeros(3), "v": torch.zeros(2, 2)}
    change = ChangeNorm([(name, "float32", list(w.shape)) for name, w in weights.items()])
    list(change.watch(weights.items()))
    assert change.norm is None
    weights["w"] += torch.tensor([3.0, 0, 0])
    weights["v"] += 2.0
    list(change.watch(weights.items()))
    assert change.norm == pytest.approx(5.0)  # sqrt(9 + 4 * 4)
    list(change.watch(weights.items(), again=True))
    assert change.norm == pytest.approx(5.0)


def test_a_half_frozen_generator_shows_in_log_probabilities_and_not_in_the_mean_ratio():
    """Incident, 2026-11-24: vLLM's packed output head was stale, mean ratio 0.998, difference 0.012."""
    check_drift(0.9999, 1e-6, 0.01, 5)
    with pytest.raises(Stopped, match=r"differ by 0\.0120"):
        check_drift(0.998, 0.012, 0.01, 5)
    with pytest.raises(Stopped, match=r"0\.8000"):
        check_drift(0.8, 0.0, 0.1, 5)


def test_the_stand_ins_model_is_transformers_model(world):
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model = AutoModelForCausalLM.from_pretrained(world / "base", dtype=torch.float32).eval()
    theirs = model(ids, attention_mask=mask, position_ids=positions).logits[:, -1]
    ours = SmallQwen2(str(world / "base")).last_logits(ids, mask)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture
def serve(world, tmp_path):
    """`serve(*options)`: a connection to a stand-in server in a thread of this process."""
    running = []

    def start(*options: str, transport: str = "file") -> ServerConnection:
        server = stand_in_server.serve(
            stand_in_server.parse(
                ["--folder", str(tmp_path), "--state", "--model", str(world / "base"), *options]
            )
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        running.append(server)
        return ServerConnection(
            tmp_path, tmp_path, Bounds(3, 3), transport=transport, sync_folder=str(tmp_path / "sync")
        )

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("options", "transport", "message"),
    [
        (["--serve", "/models/other"], "file", "serves /models/other; this training starts from"),
        (["--no-development"], "file", "development endpoints are off"),
        (["--logprobs-mode", "raw_logprobs"], "file", "needs processed_logprobs"),
    ],
)
def test_the_wrong_server_is_refused_before_a_model_is_loaded(options, transport, message, serve, world):
    connection = serve(*options, transport=transport)
    with pytest.raises(Stopped, match=message) as stopped:
        check_servers(connection, str(world / "base"))
    assert stopped.value.returncode == 2
    assert "r1kit serve" in str(stopped.value)


def test_a_server_without_weight_transfer_is_refused_for_nccl(serve, world):
    connection = serve(transport="nccl")
    with pytest.raises(Stopped, match="has no weight transfer"):
        check_servers(connection, str(world / "base"))


def test_a_group_that_cannot_be_built_is_told_before_a_model_is_loaded(serve, world):
    connection = serve("--weight-transfer", transport="nccl")
    check_servers(connection, str(world / "base"))
    with pytest.raises(Stopped, match="cannot build an NCCL group") as stopped:
        preflight(connection, torch.device("cpu"))
    assert stopped.value.returncode == 4


@pytest.mark.parametrize("arrives", [True, False])
def test_one_tensor_goes_through_the_group_and_what_arrived_is_compared(arrives):
    """The group of both sides, as a queue: the worker waits in it while it answers, as in NCCL."""
    pipe: queue.Queue[torch.Tensor] = queue.Queue()

    class Received:
        def broadcast(self, tensor, src, stream):
            tensor.copy_(pipe.get(timeout=5) if arrives else pipe.get(timeout=5) * 0)

    class Sent:
        def broadcast(self, tensor, src, stream):
            pipe.put(tensor)

    worker = WeightVersions()
    worker.device = torch.device("cpu")
    worker.weight_transfer_engine = SimpleNamespace(model_update_group=Received())
    client = ServerClient("http://nowhere")
    client.communicator = Sent()
    client.worker_call = lambda method, **kwargs: [getattr(worker, method)(**kwargs)]
    if arrives:
        move_one_tensor(client, torch.device("cpu"))
    else:
        with pytest.raises(ServerTrouble, match="received a tensor with the sum 0"):
            move_one_tensor(client, torch.device("cpu"))


def test_the_keepers_fingerprint_decides_where_paths_do_not(world, tmp_path):
    base, copy = world / "base", tmp_path / "copy"
    shutil.copytree(base, copy)
    state = {"model": "/elsewhere/base", "fingerprint": model_fingerprint(base)}
    check_model("/elsewhere/base", str(copy), state, "url")  # another node's path, the same model
    check_model("/dev/shm/v00000003-abcdef", str(copy), state, "url")  # what vLLM loaded last
    with pytest.raises(ServerRefused, match="serves /elsewhere/other"):
        check_model("/elsewhere/other", str(copy), state, "url")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    with pytest.raises(ServerRefused, match="another shape or vocabulary"):
        check_model("/elsewhere/base", str(copy), state, "url")


def test_nobody_there_is_exit_code_4_with_a_paragraph(tmp_path, world):
    (tmp_path / "server.json").write_text('{"urls": ["http://127.0.0.1:9"], "pids": [], "state": "ready"}')
    connection = ServerConnection(tmp_path, tmp_path, Bounds(2, 2))
    with pytest.raises(Stopped, match="Connection refused") as stopped:
        check_servers(connection, str(world / "base"))
    assert stopped.value.returncode == 4


def test_new_weights_change_the_answers_and_another_token_is_noticed(serve, world):
    connection = serve()
    preflight(connection, torch.device("cpu"))
    transport = connection.connected
    assert isinstance(transport, FileTransport)
    weights = load_file(world / "base/model.safetensors")
    metadata = [(name, "float32", list(tensor.shape)) for name, tensor in weights.items()]
    prompt = {"prompts": [[5, 6, 7]], "n": 1, "max_tokens": 1, "temperature": 1e-3}
    before = transport.servers.generate(**prompt)
    for tensor in weights.values():
        tensor.copy_(torch.randn_like(tensor))
    measured = transport.sync(4, metadata, weights.items())
    assert measured["weights/server_version"] == measured["weights/version"] == 4
    assert transport.servers.generate(**prompt)["completion_ids"] != before["completion_ids"]
    transport.servers.clients[0].worker_call("r1kit_stamp", step=4, token="others")
    with pytest.raises(ServerTrouble, match="another trainer uses it"):
        transport.check()
    connection.connected.close()
    assert not list(Path(connection.sync_folder).iterdir())


def test_a_request_is_sent_once_and_ends_within_its_bound(serve):
    """Incident: TRL's client has no timeout and repeats a POST up to five times (trl 1.16, `_post`)."""
    connection = serve()
    (connection.folder / "orders.json").write_text('{"1": "hang"}')
    servers = connect(connection.folder, Bounds(generation=0.3, sync=1))
    with pytest.raises(ServerSilent, match=r"did not answer within 0\.3 s"):
        servers.generate([[1, 2]], n=1, max_tokens=1, temperature=1.0)
    assert json.loads((connection.folder / "generations").read_text()) == 1


def test_a_restart_is_asked_for_and_over_once_the_keeper_names_other_processes(serve):
    connection = serve()
    preflight(connection, torch.device("cpu"))
    path = connection.folder / "server.json"
    state = read_json(path)
    threading.Timer(0.5, write_json_atomic, (path, state | {"pids": [1]})).start()
    connection.reconnect("has not answered", torch.device("cpu"))
    assert read_json(connection.folder / "restart.json")["pids"] == state["pids"]
    assert connection.connected.servers.pids == [1]
    write_json_atomic(path, state | {"state": "failed"})
    with pytest.raises(ServerTrouble, match="did not come back"):
        connection.reconnect("has not answered", torch.device("cpu"))


def test_two_replicas_share_the_prompts_and_answer_in_order():
    class Client:
        def generate(self, prompts, n):
            rows = [[prompt[0], i] for prompt in prompts for i in range(n)]
            return {
                "prompt_ids": prompts,
                "completion_ids": rows,
                "logprobs": rows,
                "logprob_token_ids": rows,
            }

    prompts = [[i] for i in range(5)]
    for count in (1, 2, 3, 8):  # more servers than prompts: some have nothing to do
        answer = Replicas([Client() for _ in range(count)]).generate(prompts, n=2)
        assert answer["completion_ids"] == [[i, j] for i in range(5) for j in range(2)]
        assert answer["prompt_ids"] == prompts
