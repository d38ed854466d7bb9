"""Asking a teacher, and traces from its answers."""

from __future__ import annotations

import time
from collections import Counter
from email.utils import formatdate

import pytest

from r1kit.data.row_files import open_rows
from r1kit.evaluation.endpoint import NotAllowed, retry_after, with_instruction
from r1kit.evaluation.generation import (
    NoTrace,
    ask_teacher,
    conversation,
    prompts_of,
    reason_of,
    reward_judge,
    trace_text,
    write_traces,
)
from r1kit.evaluation.server_sampler import (
    EndpointLost,
    answers_in,
    seed_of,
    unanswered_in,
)
from r1kit.rewards import accuracy_reward, think_format_reward
from r1kit.rewards.registry import get_rewards
from r1kit.settings.data import GenerationSettings, SamplingSettings
from tests.data.odd_endpoint import serving
from tests.data.rows import write_jsonl

ROWS = [{"problem": f"What is {n} + {2 * n}?", "solution": str(3 * n), "level": n % 3} for n in range(6)]
QUICK = {"concurrency": 4, "attempts": 4, "first_wait": 0.01, "longest_wait": 0.05, "silence": 5}


@pytest.fixture
def source(tmp_path):
    return open_rows(write_jsonl(tmp_path / "prompts.jsonl", ROWS))


def settings(url, samples=2, sampling=None, **patience):
    return GenerationSettings.model_validate(
        {
            "url": url,
            "samples": samples,
            "sampling": {"model": "odd", **(sampling or {})},
            "patience": {**QUICK, **patience},
        }
    )


def judge():
    functions, _ = get_rewards([{"name": "accuracy"}, {"name": "think_format"}])
    return reward_judge({function.name: function for function in functions})


def harvested(source, found, folder):
    identity = found.sampling.identity()
    counts = write_traces(source, found.samples, identity, judge(), ["accuracy", "think_format"], folder)
    files = ("traces", "failures", "prompts")
    return counts, *(list(open_rows(folder / f"{name}.parquet")) for name in files)


def result(source, folder, misbehave=lambda nth, body: "", form="reasoning_content", **options):
    with serving(misbehave, form) as server:
        found = settings(server.url, **options)
        asked = ask_teacher(list(source), found, folder)
    return asked, server, harvested(source, found, folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    source = open_rows(write_jsonl(folder / "prompts.jsonl", ROWS))
    return result(source, folder / "out")[2]


def test_answers_become_verified_traces_failures_with_reasons_and_pass_rates(undisturbed):
    counts, traces, failures, prompts = undisturbed
    assert counts.answers == 12 == len(traces) + len(failures)
    assert 0 < len(failures) == counts.failures["wrong"]
    first = traces[0]
    assert first["messages"][0] == {"role": "user", "content": first["problem"]}
    assert first["messages"][1]["content"].startswith("<think>\nWe add ")
    assert first["verified"] is True
    assert first["reward_accuracy"] == first["reward_think_format"] == 1.0
    assert {failure["reason"] for failure in failures} == {"wrong"}
    assert [prompt["problem"] for prompt in prompts] == [row["problem"] for row in ROWS]
    right = Counter(trace["problem"] for trace in traces)
    assert [prompt["pass_rate"] for prompt in prompts] == [right[row["problem"]] / 2 for row in ROWS]


@pytest.mark.parametrize(("form", "stream"), [("reasoning", True), ("tags", False), ("begun", True)])
def test_it_does_not_matter_where_a_server_puts_the_reasoning(source, tmp_path, undisturbed, form, stream):
    _, _, found = result(source, tmp_path, form=form, stream=stream)
    assert found[1:] == undisturbed[1:]


@pytest.mark.parametrize(
    ("kinds", "stream"),
    [
        (["500", "503", "429 0.05", "cut", "garbled event", "error event"], True),
        (["500", "503", "429 0.05", "cut", "garbled", "408"], False),
    ],
)
def test_what_goes_wrong_once_leaves_no_trace_in_the_result(source, tmp_path, undisturbed, kinds, stream):
    def misbehave(nth, body):
        problem = body["messages"][0]["content"]
        return next(kinds[n] for n, row in enumerate(ROWS) if row["problem"] == problem) if nth == 1 else ""

    asked, server, found = result(source, tmp_path, misbehave, stream=stream)
    assert (asked.answered, asked.failed) == (12, 0)
    assert set(server.counts.values()) == {2}
    assert found == undisturbed


def test_a_server_that_falls_silent_is_asked_again(source, tmp_path, undisturbed):
    silent = {ROWS[0]["problem"], ROWS[3]["problem"]}

    def misbehave(nth, body):
        return "silent" if nth == 1 and body["messages"][0]["content"] in silent else ""

    asked, _, found = result(source, tmp_path, misbehave, silence=0.3)
    assert asked.failed == 0
    assert found == undisturbed


def test_a_whole_request_has_a_bound(tmp_path):
    with serving(delay=0.6) as server:
        asked = ask_teacher(ROWS[:1], settings(server.url, samples=1, timeout=0.2, attempts=1), tmp_path)
    assert asked.failed == 1
    with unanswered_in(tmp_path) as unanswered:
        (found,) = unanswered
    assert found["reason"] == "timeout"


def test_retry_after_is_waited_for_and_by_the_others_too(tmp_path):
    first = []

    def misbehave(nth, body):
        first.append(1)
        return "429 0.5" if len(first) == 1 else ""

    with serving(misbehave) as server:
        ask_teacher(ROWS, settings(server.url, samples=1, concurrency=1), tmp_path)
        waited = [later - server.times[0] for later in server.times[1:]]
    assert len(waited) == 6
    assert min(waited) >= 0.5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("99999999", 3600), ("", None), ("soon", None), ("nan", None)],
)
def test_retry_after_is_read_as_seconds(header, seconds):
    assert retry_after(header) == seconds


def test_retry_after_is_read_as_a_date():
    assert retry_after(formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


def test_what_fails_for_good_is_kept_with_its_reason_and_asked_again_by_the_next_run(source, tmp_path):
    broken = {ROWS[1]["problem"]: "400", ROWS[2]["problem"]: "500"}

    def misbehave(nth, body):
        return broken.get(body["messages"][0]["content"], "")

    asked, _, (counts, _, failures, prompts) = result(source, tmp_path, misbehave)
    assert (asked.answered, asked.failed) == (8, 4)
    details = {failure["reason"]: failure["detail"] for failure in failures if not failure["finish_reason"]}
    assert details == {"refused": "400 status 400, as told", "server_error": "500 status 500, as told"}
    assert counts.failures["refused"] == counts.failures["server_error"] == 2
    assert prompts[1]["pass_rate"] is None
    asked, server, (counts, *_) = result(source, tmp_path)
    assert (asked.on_disk, asked.answered) == (8, 4)
    assert len(server.requests) == 4
    assert counts.answers == 12


def test_truncated_answers_and_answers_without_reasoning_are_failures_that_count_as_wrong(source, tmp_path):
    kinds = {ROWS[1]["problem"]: "truncated", ROWS[2]["problem"]: "bare"}
    _, _, (counts, traces, failures, prompts) = result(
        source, tmp_path, lambda nth, body: kinds.get(body["messages"][0]["content"], "")
    )
    assert counts.failures["truncated"] == counts.failures["no reasoning"] == 2
    assert [prompt["pass_rate"] for prompt in prompts[1:3]] == [0, 0]
    said = next(failure["messages"] for failure in failures if failure["reason"] == "truncated")
    assert "We add 1 and 2" in said[-1]["content"], "what was said is kept"
    assert not {trace["problem"] for trace in traces} & set(kinds)


def test_a_second_run_asks_only_for_what_is_missing(source, tmp_path, undisturbed):
    result(source, tmp_path, samples=1)
    asked, server, found = result(source, tmp_path, samples=2)
    assert (asked.on_disk, asked.answered, len(server.requests)) == (6, 6, 6)
    assert found == undisturbed
    asked, server, _ = result(source, tmp_path, samples=2)
    assert (asked.on_disk, len(server.requests)) == (12, 0)
    _, server, _ = result(source, tmp_path, samples=2, sampling={"temperature": 1.0})
    assert len(server.requests) == 12, "another question"


def test_a_torn_line_costs_one_answer(source, tmp_path, undisturbed):
    result(source, tmp_path)
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    asked, _, found = result(source, tmp_path)
    assert (asked.on_disk, asked.answered) == (11, 1)
    assert found == undisturbed


def test_no_more_requests_are_in_flight_than_asked_for(tmp_path):
    with serving(delay=0.1) as server:
        ask_teacher(ROWS, settings(server.url, concurrency=3), tmp_path)
        assert 2 <= server.most_in_flight <= 3


def test_nobody_there_ends_the_run_with_what_was_answered(tmp_path):
    with serving() as server:
        found = settings(server.url)
        ask_teacher(ROWS[:2], found, tmp_path)
    with pytest.raises(EndpointLost, match=r"\d+ requests in a row failed, the last: unreachable"):
        ask_teacher(ROWS, found, tmp_path)
    with answers_in(tmp_path) as answers:
        assert len(list(answers)) == 4


def test_requests_that_are_all_refused_end_the_run_and_one_refused_prompt_does_not(tmp_path):
    with serving(lambda nth, body: "400") as server:
        with pytest.raises(EndpointLost, match="8 requests in a row failed, the last: refused"):
            ask_teacher(ROWS, settings(server.url, concurrency=1), tmp_path / "all")
        assert len(server.requests) == 8
    with serving(lambda nth, body: "" if ROWS[0]["problem"] in str(body) else "400") as server:
        asked = ask_teacher(ROWS, settings(server.url, concurrency=1), tmp_path / "most")
    assert (asked.answered, asked.failed) == (2, 10)


def test_a_wrong_key_ends_the_run_at_once_and_no_key_is_written(tmp_path):
    with serving(lambda nth, body: "401") as server, pytest.raises(NotAllowed, match="401"):
        ask_teacher(ROWS, settings(server.url, concurrency=1), tmp_path, key="secret-9")
    assert server.keys == {"Bearer secret-9"}
    assert len(server.requests) == 1
    assert not [file for file in tmp_path.rglob("*") if b"secret-9" in file.read_bytes()]


def test_verdicts_are_remembered_and_other_golds_are_judged_anew(source, tmp_path):
    _, _, (_, traces, *_) = result(source, tmp_path)
    asked = []

    def counting(completions, rows):
        asked.extend(completions)
        return judge()(completions, rows)

    identity = settings("http://x").sampling.identity()
    names = ["accuracy", "think_format"]
    assert write_traces(source, 2, identity, counting, names, tmp_path).traces == len(traces)
    assert asked == []
    other = [{**row, "solution": "77"} if n == 0 else row for n, row in enumerate(ROWS)]
    corrected = open_rows(write_jsonl(tmp_path / "corrected.jsonl", other))
    write_traces(corrected, 2, identity, counting, names, tmp_path)
    assert len(asked) == 2


def test_a_row_asks_its_prompt_its_messages_or_its_problem_and_each_question_once():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    answered = [*turns, {"role": "assistant", "content": "a"}]
    rows = [{"prompt": "q"}, {"prompt": turns}, {"messages": answered}, {"problem": "q", "prompt": None}]
    assert [conversation(row) for row in rows] == [turns[1:], turns, turns, turns[1:]]
    assert len(list(prompts_of(rows))) == 2
    with pytest.raises(ValueError, match="asks nothing"):
        conversation({"messages": answered[2:]})


def test_an_instruction_is_asked_but_is_not_part_of_the_prompt():
    sampling = SamplingSettings(model="m", system="Be brief.", instruction="Box it.")
    asked = with_instruction([{"role": "user", "content": "q"}], sampling)
    assert [turn["content"] for turn in asked] == ["Be brief.", "q\n\nBox it."]


def test_seeds_differ_between_samples_and_prompts_and_fit_into_31_bits():
    sampling = SamplingSettings(model="m")
    seeds = {seed_of(prompt, sample, sampling) for prompt in ("a", "b") for sample in range(100)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of("a", 0, SamplingSettings(model="m", seed=None)) is None


def test_a_reward_is_asked_about_rows_that_have_its_gold_and_an_empty_text_is_none():
    functions, _ = get_rewards([{"name": "accuracy"}, {"name": "binary_code"}])
    rows = [{"solution": gold, "verification_info": ""} for gold in ("4", "5", "")]
    said = ["<think>\nTwo and two.\n</think>\nIt is \\boxed{4}."] * 3
    found = reward_judge({function.name: function for function in functions})(said, rows)
    assert found == [{"accuracy": 1.0}, {"accuracy": 0.0}, {}]


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ({"accuracy": 1.0, "format": 1.0}, ""),
        ({"accuracy": 1.0, "format": 0.5}, "wrong"),
        ({"accuracy": None, "format": 0.0}, "wrong"),
        ({"accuracy": None, "format": 1.0}, "not judged"),
        ({}, "nothing to check against"),
    ],
)
def test_a_trace_is_verified_if_all_rewards_that_apply_agree(verdicts, reason):
    assert reason_of(verdicts) == reason


FORM = "<think>\nTwo and two.\n</think>\nIt is \\boxed{4}."


def answer(content, reasoning="", finish="stop"):
    return {"content": content, "reasoning": reasoning, "finish_reason": finish}


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [
        ("It is \\boxed{4}.", "Two and two."),
        ("\n\nIt is \\boxed{4}.\n", "\nTwo and two.\n"),
        ("<think>Two and two.</think>It is \\boxed{4}.", ""),
        ("Two and two.\n</think>\n\nIt is \\boxed{4}.", ""),  # the chat template wrote <think>
        ("It is \\boxed{4}.", "<think>\nTwo and two.\n</think>"),
        ("<think></think>It is \\boxed{4}.", "Two and two."),
    ],
)
def test_reasoning_in_a_field_or_between_tags_becomes_the_one_form(content, reasoning):
    assert trace_text(answer(content, reasoning)) == FORM


def test_the_form_is_what_the_rewards_read():
    completion = [{"role": "assistant", "content": FORM}]
    assert accuracy_reward([completion], solution=["4"]) == [1.0]
    assert think_format_reward([completion]) == [1.0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer("It is", "Two and", finish="length"), "truncated"),
        (answer("", "", finish="content_filter"), "finish: content_filter"),
        (answer(" \n"), "empty"),
        (answer("It is 4."), "no reasoning"),
        (answer("<think>\n\n</think>\nIt is 4."), "no reasoning"),
        (answer("", "Two and two."), "no answer"),
        (answer("<think>Two and two.</think>"), "no answer"),
        (answer("<think>Two and two."), "malformed"),
        (answer("<think>a</think>b</think>c"), "malformed"),
        (answer("<think>a<think>b</think>c"), "malformed"),
        (answer("b</think>c", "a"), "malformed"),
    ],
)
def test_what_cannot_be_brought_into_the_form_is_named(given, reason):
    with pytest.raises(NoTrace) as caught:
        trace_text(given)
    assert str(caught.value) == reason
