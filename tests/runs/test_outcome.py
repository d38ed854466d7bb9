"""Exit codes and paragraphs from what launchers and trainers leave behind."""

from __future__ import annotations

import pytest

from r1kit.runs.outcome import classify, clean, error_line, read_tail

LAUNCHER = """\
The following values were not passed to `accelerate launch` and had defaults used instead:
	`--num_cpu_threads_per_process` was set to `2` to improve out-of-box performance when training on CPUs
To avoid this warning pass in values for each of the problematic parameters or run `accelerate config`.
step 1
Traceback (most recent call last):
  File "/x/train.py", line 3, in <module>
    raise ValueError("a bad batch")
ValueError: a bad batch
Traceback (most recent call last):
  File "/x/launch.py", line 999, in simple_launcher
    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)
subprocess.CalledProcessError: Command '['python', '-m', 'x']' {end}
"""
ELASTIC = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Root Cause (first observed failure):
  exitcode  : {code} (pid: 123)
"""


@pytest.mark.parametrize("code", [1, 2, 3, 130, 143])
def test_the_trainers_exit_code_is_found_behind_the_launchers(code):
    log = LAUNCHER.format(end=f"returned non-zero exit status {code}.")
    assert classify(1, None, log)[0] == code
    assert classify(1, None, ELASTIC.format(code=code))[0] == code


def test_what_the_trainer_states_itself_counts_most():
    stated = {"returncode": 2, "message": "SettingsError: no"}
    code, message = classify(1, None, "MemoryError", reported=stated)
    assert code == 2
    assert "SettingsError: no" in message


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1. TiB for an array with shape (1,)",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.OutOfMemoryError: HIP out of memory.",
        "[rank0]: torch.OutOfMemoryError: CUDA out of memory.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_every_way_to_run_out_of_memory_is_exit_code_3(line):
    code, message = classify(1, None, f"step 1\nTraceback (most recent call last):\n{line}\n")
    assert code == 3
    assert "ran out of memory" in message


def test_a_kill_is_lack_of_memory_only_when_the_kernel_says_so():
    assert classify(-9, None, "", oom_kills=1)[0] == 3
    assert classify(-9, None, "", oom_kills=0)[0] == 137
    killed = LAUNCHER.format(end="died with <Signals.SIGKILL: 9>.").replace("ValueError: a bad batch", "")
    assert classify(1, None, killed, oom_kills=1)[0] == 3
    assert classify(1, None, killed, oom_kills=0)[0] == 137


def test_a_mention_of_memory_in_a_log_that_ends_well_is_no_failure():
    assert classify(0, None, "MemoryError") == (0, "")


@pytest.mark.parametrize(
    ("ended_by", "code"),
    [("timeout", 4), ("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("owner died", 143)],
)
def test_what_the_supervisor_ended_keeps_the_reason(ended_by, code):
    found, message = classify(0, ended_by, "MemoryError")
    assert found == code
    assert message.startswith("The training program ")


def test_the_paragraph_names_the_error_and_not_the_launchers():
    log = LAUNCHER.format(end="returned non-zero exit status 1.")
    assert error_line(log) == "ValueError: a bad batch"
    assert (
        classify(1, None, log)[1] == "The training program stopped with exit code 1: ValueError: a bad batch"
    )


def test_a_cleaned_log_has_neither_bars_nor_colours_nor_warnings_nor_the_launcher():
    noise = (
        "\x1b[31mred\x1b[0m\n  5%|##    | 1/20 [00:01<00:19,  1.0it/s]\n"
        "/x.py:1: FutureWarning: old\n  warnings.warn(\nloading\rloaded\n"
    )
    cleaned = clean(noise + LAUNCHER.format(end="returned non-zero exit status 1."))
    assert cleaned.splitlines()[:3] == ["red", "loaded", "step 1"]
    assert cleaned.endswith("ValueError: a bad batch")


def test_a_tail_starts_at_the_offset_and_at_most_the_limit(tmp_path):
    path = tmp_path / "train.log"
    assert read_tail(path) == ""
    path.write_bytes(b"old\n" + b"x" * 100)
    assert read_tail(path, offset=4) == "x" * 100
    assert read_tail(path, limit=10) == "x" * 10
    assert read_tail(path, offset=999) == "old\n" + "x" * 100
