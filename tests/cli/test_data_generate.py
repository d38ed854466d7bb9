"""`r1kit data generate` from a shell: its messages, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from r1kit.cli import data
from r1kit.data.datasets import save
from r1kit.data.row_files import open_rows
from r1kit.pipeline import data as pipeline_data
from r1kit.settings import SettingsError
from tests.data.odd_endpoint import serving
from tests.data.rows import write_jsonl

PROMPTS = [{"problem": f"What is {n} + {n + 7}?", "solution": str(2 * n + 7)} for n in range(40)]
KEY = "key-that-is-written-nowhere"
SETS = ("traces", "failures", "prompts")


@pytest.fixture
def prompts(tmp_path):
    return write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)


def command(server, prompts, out, *more):
    options = ["--url", server.url, "--model", "odd", "--prompts", str(prompts), "--out", str(out)]
    return [sys.executable, "-m", "r1kit", "data", "generate", *options, "--concurrency", "4", *more]


def start(*arguments):
    """In the background: where a shell starts a command with `&`, it ignores SIGINT."""
    return subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command(*arguments)],
        env={**os.environ, "OPENAI_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(path, lines, process):
    deadline = time.monotonic() + 60
    while lines_in(path) < lines:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def sets_in(out):
    return {name: list(open_rows(out / f"{name}.parquet")) for name in SETS}


@pytest.mark.slow
@pytest.mark.failures
def test_a_run_that_was_killed_and_goes_on_ends_like_one_that_was_not(prompts, tmp_path):
    with serving() as server:
        whole = start(server, prompts, tmp_path / "whole", "--samples", "3", "--json")
        report = json.loads(whole.communicate(timeout=120)[0])
        assert report["answers"] == 120
        undisturbed = len(server.requests)
        server.delay = 0.3  # the job must not be done before a signal reaches it
        answers = tmp_path / "out" / "answers.jsonl"
        for lines in (15, 50):
            killed = start(server, prompts, tmp_path / "out", "--samples", "3")
            wait_for_lines(answers, lines, killed)
            killed.kill()
            killed.communicate()
        with open(answers, "ab") as file:
            file.write(b'{"prompt_id": "torn in the mid')
        stopped = start(server, prompts, tmp_path / "out", "--samples", "3")
        wait_for_lines(answers, 70, stopped)
        stopped.send_signal(signal.SIGTERM)
        _, said = stopped.communicate(timeout=60)
        assert stopped.returncode == 143
        assert "the same command resumes" in said
        server.delay = 0.0
        last = start(server, prompts, tmp_path / "out", "--samples", "3", "--json")
        out, _ = last.communicate(timeout=120)
        assert last.returncode == 0
        assert json.loads(out)["answered_before"] >= 70
        asked = len(server.requests) - undisturbed
    assert sets_in(tmp_path / "out") == sets_in(tmp_path / "whole")
    assert 120 <= asked <= 120 + 3 * 4, "no answer on disk is asked for again"
    assert server.keys == {f"Bearer {KEY}"}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


@pytest.mark.slow
def test_the_prompts_of_a_profile_are_asked_and_an_endpoint_that_is_gone_is_exit_code_1(prompts, tmp_path):
    with serving() as server:
        done = subprocess.run(
            command(server, prompts, tmp_path / "out", "--most", "5"), capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert "5 prompts, 5 answers (0 from before)" in done.stdout
    gone = ["--set", "generation.patience.attempts=1"]
    done = subprocess.run(command(server, prompts, tmp_path / "out", *gone), capture_output=True, text=True)
    assert done.returncode == 1
    assert "requests in a row failed, the last: unreachable" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_programs_are_run_on_their_tests_and_sums_compared_with_their_solution_in_one_set(tmp_path):
    rows = [{**PROMPTS[n], "verification_info": ""} for n in range(10)]
    for n in range(10):
        cases = [{"type": "stdin_stdout", "input": "", "output": str(2 * n + 7)}]
        info = json.dumps({"language": "python", "test_cases": cases})
        text = f"Write a program that prints {n} + {n + 7}"
        rows.append({"problem": text, "solution": "", "verification_info": info})
    out = tmp_path / "out"
    with serving() as server:
        prompts = write_jsonl(tmp_path / "prompts.jsonl", rows)
        asked = command(server, prompts, out, "--samples", "4", "--json")
        done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rewards"] == ["accuracy", "binary_code"]
    found = sets_in(out)
    right = {bool(row["verification_info"]): [] for row in rows}
    for row in found["traces"]:
        program = "program" in row["problem"]
        right[program].append(row)
        assert row["reward_binary_code" if program else "reward_accuracy"] == 1
        assert row["reward_accuracy" if program else "reward_binary_code"] is None
    assert all(len(traces) > 20 for traces in right.values())
    assert len(found["traces"]) + len(found["failures"]) == 80
    assert {row["reason"] for row in found["failures"]} == {"wrong"}


def test_the_prompts_of_the_embedded_profile_have_golds():
    source = data.prompts_of_profile("cpu-tiny")
    assert source.rows > 100
    assert data.default_rewards(source) == ["accuracy"]


def test_the_prompts_of_a_profile_with_real_data_are_those_that_were_prepared(tmp_path, monkeypatch):
    rows = [{"prompt": [{"role": "user", "content": "What is 1 + 2?"}], "solution": "3"}]
    save({"prompts": rows}, tmp_path)
    asked = []

    def prepared(settings, workers, progress):
        asked.append((settings.name, settings.data.seed))
        return SimpleNamespace(folder=tmp_path)

    monkeypatch.setattr(pipeline_data, "prepare_profile", prepared)
    assert list(data.prompts_of_profile("gpu-small", {"data.seed": 5})) == rows
    assert asked == [("gpu-small", 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "localhost:8000.*http://host:port/v1"),
        ({"samples": 0}, "samples.*greater than 0"),
        ({"set_": ["generation.sampling.temprature=1"]}, "Did you mean `temperature`"),
        ({"set_": ["generation.patience.attempts=many"]}, "attempts.*whole number"),
        ({"reward": ["acuracy"]}, "Did you mean `accuracy`"),
        ({"reward": ["code"]}, "compares with verification_info"),
        ({"set_": ["sft.learning_rate=1"]}, "Unknown section"),
        ({"prompts": "", "profile": "cpu-tyni"}, "Did you mean `cpu-tiny`"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl is not a set of rows"),
    ],
)
def test_a_bad_option_is_one_message_before_anything_starts(prompts, tmp_path, options, message):
    given = {
        "url": "http://127.0.0.1:1/v1",
        "out": str(tmp_path / "out"),
        "prompts": str(prompts),
        "model": "m",
    }
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        data.generate(**{**given, **options})
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_prompts_without_a_gold_need_a_reward_that_needs_none(tmp_path):
    source = open_rows(write_jsonl(tmp_path / "bare.jsonl", [{"problem": "What is 1 + 1?"}]))
    with pytest.raises(SettingsError, match="or --reward think_format"):
        data.check_rewards(source, data.default_rewards(source))
    data.check_rewards(source, ["think_format"])
