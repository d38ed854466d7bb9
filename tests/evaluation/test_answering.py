"""Who answers: in this process and at a server, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest

from r1kit.data.format import user_prompt
from r1kit.evaluation import evaluate_answering
from r1kit.evaluation.benchmarks import Question
from r1kit.evaluation.checkpoints import evaluate
from r1kit.evaluation.sampler import ANSWERS, LocalSampler, Sampling, encode, weights_identity
from r1kit.evaluation.server_sampler import ServerSampler, Unanswered, completion_of
from r1kit.settings.data import PatienceSettings
from tests.data.odd_endpoint import answer_to, serving
from tests.evaluation.test_evaluate import HELDOUT, SETTINGS

SUMS = [
    Question(
        f"What is {n} + {n + 1}?", str(2 * n + 1), "sums", user_prompt(f"What is {n} + {n + 1}?"), "answer", 3
    )
    for n in range(8)
]
PROMPTS = [question.prompt for question in SUMS]
DRAWN = Sampling(0.6, 0.95, 64, seed=4)
QUICK = PatienceSettings(concurrency=4, attempts=2, first_wait=0.01, longest_wait=0.02)
NO_WORDS = {"greedy": False, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 64, "seed": 4}


def test_a_server_is_asked_every_sample_once_with_a_seed_of_its_own(tmp_path):
    with serving() as server:
        answering = ServerSampler([server.url], model="m", patience=QUICK)
        frame = evaluate_answering(answering, SUMS, NO_WORDS, folder=tmp_path)
        assert Counter(server.counts.values()) == {1: 24}
        again = evaluate_answering(answering, SUMS, NO_WORDS, folder=tmp_path)
        assert len(server.requests) == 24, "what is on disk is not asked again"
    assert again.equals(frame)
    assert len({body["seed"] for body in server.requests}) == 24
    assert frame["finished"].all()
    assert frame["completion"].str.startswith("<think>\nWe add").all()
    expected = [
        float(f"{{{q.solution}}}" in answer_to({"messages": q.prompt, "seed": seed, "temperature": 0.6})[1])
        for q in SUMS
        for seed in [body["seed"] for body in server.requests if body["messages"] == q.prompt]
    ]
    assert sorted(frame["correct"]) == sorted(expected)
    assert 0 < frame["correct"].mean() < 1


def test_replicas_share_the_questions_and_give_the_same_answers_as_one(tmp_path):
    with serving() as one, serving() as two:
        alone = ServerSampler([one.url], model="m", patience=QUICK).sample(
            PROMPTS, DRAWN, 3, folder=tmp_path / "one"
        )
        asked = len(one.requests)
        both = ServerSampler([one.url, two.url], model="m", patience=QUICK).sample(
            PROMPTS, DRAWN, 3, folder=tmp_path / "two"
        )
        assert both.rows == alone.rows
        assert len(two.requests) == asked // 2


def test_prompts_with_different_numbers_of_samples_share_a_server(tmp_path):
    """Their two requests for one folder once met, and the second was refused as another process's."""
    with serving() as one, serving() as two:
        sampler = ServerSampler([one.url, two.url], model="m", patience=QUICK)
        found = sampler.sample(PROMPTS, DRAWN, [3, 3, 1, 2, 1, 3, 2, 1], folder=tmp_path)
    assert [len(row) for row in found.rows] == [3, 3, 1, 2, 1, 3, 2, 1]


def test_with_a_tokenizer_prompts_are_sent_as_token_ids_and_ids_come_back(tiny):
    tokenizer = tiny[1]
    with serving() as server:
        sampler = ServerSampler([server.url], model="m", patience=QUICK, tokenizer=tokenizer)
        ((one, two),) = sampler.sample(PROMPTS[:1], DRAWN, 2).rows
    ids = encode(tokenizer, PROMPTS[0])
    assert [body["prompt"] for body in server.requests] == [[ids]] * 2
    assert len({body["seed"] for body in server.requests}) == 2
    assert one.ids == two.ids == ids[::-1]
    assert one.logprobs == [-0.5] * len(ids)
    assert one.text == tokenizer.decode(ids[::-1], skip_special_tokens=True)
    assert (one.tokens, one.finished) == (len(ids), True)


def test_requests_that_fail_for_good_are_said_and_asked_again_by_the_same_call(tmp_path):
    def broken(nth, body):
        return "400" if broken.on and " 3 + 4" in body["messages"][-1]["content"] else ""

    broken.on = True
    with serving(broken) as server:
        answering = ServerSampler([server.url], model="m", patience=QUICK)
        with pytest.raises(Unanswered, match=r"3 of 24 requests .* failed"):
            answering.sample(PROMPTS, DRAWN, 3, folder=tmp_path)
        broken.on = False
        found = answering.sample(PROMPTS, DRAWN, 3, folder=tmp_path)
    assert [len(row) for row in found.rows] == [3] * 8
    assert len(server.requests) == 27


def test_a_cut_off_answer_is_not_finished_and_its_thought_stays_open():
    record = {"content": "", "reasoning": "I wonder", "finish_reason": "length", "completion_tokens": 2}
    written = completion_of(record)
    assert written.text == "<think>\nI wonder\n"
    assert not written.finished
    whole = completion_of({"content": "So 3.", "reasoning": "1 + 2", "finish_reason": "stop"})
    assert whole.text == "<think>\n1 + 2\n</think>\nSo 3."


class Counted(LocalSampler):
    """A model in this process that counts, and may be stopped."""

    batches = 0
    stop_after = 10**9

    def _generate(self, *arguments):
        if self.batches >= self.stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        return super()._generate(*arguments)


def test_in_this_process_a_stopped_evaluation_goes_on_with_the_next_batch(tmp_path, tiny):
    model, tokenizer = tiny
    whole = evaluate_answering(LocalSampler(model, tokenizer, 5), HELDOUT, SETTINGS)
    stopped = Counted(model, tokenizer, 5)
    stopped.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate_answering(stopped, HELDOUT, SETTINGS, folder=tmp_path)
    lines = (tmp_path / ANSWERS).read_text().splitlines(keepends=True)
    assert len(lines) == 10
    (tmp_path / ANSWERS).write_text(
        "".join(lines[:-2]) + lines[-2][:20]
    )  # killed while it wrote the second batch
    resumed = Counted(model, tokenizer, 5)
    frame = evaluate_answering(resumed, HELDOUT, SETTINGS, folder=tmp_path)
    assert resumed.batches == 5 + 2 - 1, "24 answers are 5 batches, 8 greedy ones 2; the first is kept"
    assert frame.equals(whole)
    other = Counted(model, tokenizer, 5)
    evaluate_answering(other, HELDOUT, SETTINGS | {"seed": 8}, folder=tmp_path)
    assert other.batches == 7, "answers drawn with another seed are answers to another question"


def test_other_weights_at_the_same_path_are_another_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"old")
    before = weights_identity(tmp_path)
    time.sleep(0.01)
    (tmp_path / "model.safetensors").write_bytes(b"new")
    assert weights_identity(tmp_path) != before
    assert weights_identity("org/name") == "org/name"


PROGRAM = """
    import json, sys
    from r1kit.evaluation.checkpoints import evaluate
    from tests.evaluation.test_evaluate import HELDOUT, SETTINGS
    folder, model = sys.argv[1:]
    evaluate(model, HELDOUT, SETTINGS | {"batch_size": 2}, folder=folder,
             progress=lambda done, wanted: print(done, flush=True))
"""


@pytest.mark.slow
def test_killed_with_signal_9_it_ends_as_if_nothing_had_happened(tmp_path, tiny):
    model, tokenizer = tiny
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = SETTINGS | {"batch_size": 2}
    whole = evaluate(tmp_path / "model", HELDOUT, settings)
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(PROGRAM),
        str(tmp_path / "kept"),
        str(tmp_path / "model"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        for line in process.stdout:
            if int(line) >= 6:
                process.send_signal(signal.SIGKILL)
                break
    kept = [json.loads(line) for line in (tmp_path / "kept" / ANSWERS).read_text().splitlines()]
    assert 6 <= len(kept) < 24
    frame = evaluate(tmp_path / "model", HELDOUT, settings, folder=tmp_path / "kept")
    assert frame.equals(whole)
