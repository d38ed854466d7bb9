"""What every trainer logs, marks and obeys; MFU by hand, in both conventions."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from r1kit.settings.known_models import KNOWN_MODELS
from r1kit.training.callbacks import (
    CompleteMarker,
    GracefulStop,
    MetricsLog,
    Throughput,
    attended_length,
    peak_of,
    readable,
)
from r1kit.training.program import StopRequest

ARGS = SimpleNamespace(
    world_size=1, device="cpu", per_device_train_batch_size=4, gradient_accumulation_steps=2
)


def state_at(step: int, tokens: int = 0, **fields) -> TrainerState:
    return TrainerState(
        global_step=step, max_steps=100, num_input_tokens_seen=tokens, is_world_process_zero=True, **fields
    )


def test_a_row_has_the_trainers_names_and_our_clock(tmp_path, capsys):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.on_train_begin(ARGS, state_at(0), TrainerControl())
    log.on_log(
        ARGS,
        state_at(10, tokens=5000),
        TrainerControl(),
        logs={"loss": 2.5, "epoch": 0.1, "reward": float("nan")},
    )
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["step"] == 10
    assert row["total_steps"] == 100
    assert row["loss"] == 2.5
    assert row["reward"] is None
    assert row["tokens_per_second"] > 0
    assert row["seconds_left"] == pytest.approx(9 * row["seconds"], abs=0.02)
    assert capsys.readouterr().out.startswith("step 10/100  loss 2.5000")


def test_the_clock_goes_on_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 40, "seconds": 120.5}\n')
    log = MetricsLog(path)
    log.on_train_begin(ARGS, state_at(40, tokens=900), TrainerControl())
    log.on_log(ARGS, state_at(41, tokens=1000), TrainerControl(), logs={"loss": 1.0})
    row = json.loads(path.read_text().splitlines()[1])
    assert 120.5 <= row["seconds"] < 130
    assert row["seconds_left"] < 60, "time left is this session's speed, not the first session's"


@pytest.mark.parametrize(("logs", "main"), [({"train_loss": 1.0}, True), ({"loss": 1.0}, False)])
def test_the_trainers_summary_and_other_processes_write_no_row(logs, main, tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.on_train_begin(ARGS, state_at(0), TrainerControl())
    state = TrainerState(global_step=1, max_steps=2, is_world_process_zero=main)
    log.on_log(ARGS, state, TrainerControl(), logs=logs)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_grpo_line_shows_the_parts_of_the_reward():
    row = {
        "step": 3,
        "total_steps": 9,
        "seconds_left": 65,
        "reward": 0.7,
        "rewards/accuracy_reward/mean": 0.6,
    }
    assert readable(row) == "step 3/9  reward 0.700  accuracy 0.600  left 1:05"


def test_the_marker_is_written_after_the_checkpoint_and_old_ones_go(tmp_path):
    marker = CompleteMarker(tmp_path, keep=2)
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        marker.on_save(ARGS, state_at(step), TrainerControl())
        written = json.loads((tmp_path / f"checkpoint-{step}/complete.json").read_text())
        assert written["step"] == step
        assert (written["processes"], written["backend"], written["batch"]) == (1, "one process", 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-15"]


def test_a_saved_step_is_a_logged_step(tmp_path):
    control = CompleteMarker(tmp_path).on_step_end(ARGS, state_at(5), TrainerControl(should_save=True))
    assert control.should_log
    assert not CompleteMarker(tmp_path).on_step_end(ARGS, state_at(6), TrainerControl()).should_log


def test_a_signal_saves_and_stops_after_the_step():
    stop = StopRequest()
    callback = GracefulStop(stop)
    callback.on_train_begin(ARGS, state_at(0), TrainerControl())
    control = callback.on_step_end(ARGS, state_at(1), TrainerControl())
    assert not control.should_training_stop
    stop._handle(signal.SIGTERM, None)
    control = callback.on_step_end(ARGS, state_at(2), TrainerControl())
    assert control.should_save
    assert control.should_training_stop
    assert stop.received == signal.SIGTERM


def test_outside_the_training_loop_a_signal_ends_the_program():
    with pytest.raises(SystemExit) as caught:
        StopRequest()._handle(signal.SIGINT, None)
    assert caught.value.code == 130


def test_a_second_signal_ends_the_program_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    stop = StopRequest(received=signal.SIGTERM, in_loop=True, signals=1)
    stop._handle(signal.SIGTERM, None)
    assert codes[0] == 143


def test_a_stop_that_another_process_heard_first_is_not_a_second_signal(monkeypatch):
    # Incident: two ranks on two nodes; the one that heard the signal later left in the middle of its save.
    monkeypatch.setattr("os._exit", lambda code: pytest.fail("left without saving"))
    stop = StopRequest(in_loop=True)
    stop.received = signal.SIGTERM  # as the ranks agreed
    stop._handle(signal.SIGTERM, None)
    assert stop.received == signal.SIGTERM


QWEN = KNOWN_MODELS["Qwen/Qwen2.5-Math-7B"]


def test_the_guides_rate_is_9_1_percent_causal_and_9_6_with_full_attention():
    found = Throughput(QWEN, 8, 2306.9e12, 4096).metrics(37_449, {})
    assert found["mfu/causal"] == pytest.approx(0.091, abs=0.0005)
    assert found["mfu/full_attention"] == pytest.approx(0.096, abs=0.0005)


@pytest.mark.slow
def test_full_attention_is_what_trl_counts():
    """TRL's own function on the same shape, so that the two conventions keep their names."""
    from transformers import Qwen2Config
    from trl.trainer.utils import compute_flops_per_token

    config = Qwen2Config(
        hidden_size=QWEN.hidden_size,
        intermediate_size=QWEN.intermediate_size,
        num_hidden_layers=QWEN.num_hidden_layers,
        num_attention_heads=QWEN.num_attention_heads,
        num_key_value_heads=QWEN.num_key_value_heads,
        vocab_size=QWEN.vocab_size,
    )
    ours = Throughput(QWEN, 1, 1.0, 4096).metrics(1.0, {})["mfu/full_attention"]
    assert ours == pytest.approx(compute_flops_per_token(config, 4096), rel=1e-9)


def test_grpo_takes_the_length_of_its_completions():
    short = Throughput(QWEN, 8, 2.3e15).metrics(1000, {"completions/mean_length": 100.0})
    long = Throughput(QWEN, 8, 2.3e15).metrics(1000, {"completions/mean_length": 8000.0})
    assert long["mfu/causal"] > 1.1 * short["mfu/causal"]


def test_attention_in_packed_rows_is_counted_document_by_document():
    import datasets

    packed = datasets.Dataset.from_dict({"seq_lengths": [[30, 10], [20]], "input_ids": [[0] * 40, [0] * 20]})
    assert attended_length(packed) == pytest.approx((900 + 100 + 400) / 60)
    assert attended_length(packed.remove_columns("seq_lengths")) == pytest.approx((1600 + 400) / 60)
    assert attended_length(datasets.Dataset.from_dict({"prompt": ["a"]})) is None


def test_a_cpus_peak_is_what_was_measured():
    assert peak_of(SimpleNamespace(type="cpu"), {"reference_gflops": 100.0}) == 1e11
