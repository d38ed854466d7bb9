"""The rewards for programs, in the real sandbox; trouble is injected by a scripted one."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading

import pytest

from r1kit.rewards import code
from r1kit.rewards.code import binary_code_reward, code_reward, get_code_format_reward
from r1kit.sandbox import Execution, Limits, SandboxError, Verdict

INFO = {
    "language": "python",
    "test_cases": [
        {"type": "stdin_stdout", "input": "3 4\n", "output": "7\n"},
        {"type": "stdin_stdout", "input": "10 20\n", "output": "30\n"},
    ],
}
CALL = {
    "language": "python",
    "test_cases": [{"fn_name": "add", "input": [3, 4], "output": 7, "type": "function_call"}],
}
ADD = "print(sum(map(int, input().split())))"


def answer(program, label="python", before="<think>\nadd\n</think>\n", end="\n```"):
    return f"{before}<answer>\n```{label}\n{program}{end}\n</answer>"


def reward(text, info=INFO, **options):
    return code_reward([text], [info], **options)[0]


@pytest.fixture(scope="module", autouse=True)
def _quick_sandbox():
    code.configure(workers=2, limits=Limits(cpu_seconds=1, wall_seconds=2.0))
    yield
    code.close_shared()
    code.configure()


@pytest.fixture
def scripted(monkeypatch):
    """A stand-in for the shared sandbox that answers with what it is told."""

    class Scripted:
        workers, limits = 2, Limits()

        def run(self, source, stdin=b"", *, limits=None):
            return self.answer(source)

    sandbox = Scripted()
    monkeypatch.setattr(code, "shared_sandbox", lambda: sandbox)
    return sandbox


def test_a_group_is_judged_by_share_and_by_all_or_nothing():
    texts = [
        answer(ADD),
        answer("print(7)"),
        answer("print(8)"),
        answer("print("),
        "<think>\n```python\n" + ADD + "\n```\n</think>\nno idea",
        answer(ADD).replace("</think>", ""),
    ]
    assert code_reward(texts, [INFO] * 6) == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert binary_code_reward(texts, [json.dumps(INFO)] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_conversations_and_function_calls_are_judged_too():
    conversation = [{"role": "assistant", "content": answer("def add(a, b):\n    return a + b")}]
    assert code_reward([conversation], [CALL], prompts=["add"], completion_ids=[[1]]) == [1.0]


@pytest.mark.parametrize("label", ["python", "py", "python3", ""])
@pytest.mark.parametrize("end", ["\n```", "\n```\nIt adds.", ""])
def test_a_fence_that_open_r1_did_not_know_is_a_program(label, end):
    assert reward(answer(ADD, label, end=end).removesuffix("\n</answer>")) == 1.0


@pytest.mark.parametrize(
    "info",
    [
        {"language": "python", "test_cases": []},  # a ZeroDivisionError in open-r1
        {"language": "rust", "test_cases": INFO["test_cases"]},
        {"language": "python", "test_cases": [{"input": "1"}]},
        "not json",
        None,
    ],
)
def test_a_row_that_cannot_be_judged_is_none_and_its_neighbour_is(info, caplog):
    code._logged.clear()
    assert code_reward([answer(ADD), answer(ADD)], [info, INFO]) == [None, 1.0]
    assert "cannot be judged" in caplog.text
    assert reward("no program", info) is None


def test_the_first_correct_line_does_not_pass():
    lines = {"test_cases": [{"input": "", "output": "1\n2\n3\n"}]}
    assert reward(answer("print(1)"), lines) == 0.0
    assert reward(answer("print(1, 2, 3, sep='\\n')"), lines) == 1.0


def test_one_time_out_leaves_the_other_cases_their_points():
    program = "n = int(input())\nwhile n == 1: pass\nprint(n)"
    info = {"test_cases": [{"input": f"{n}\n", "output": f"{n}\n"} for n in (1, 2)]}
    assert reward(answer(program), info) == 0.5


def test_infrastructure_trouble_is_none_and_never_zero(scripted):
    """open-r1's direct E2B path raised a TypeError, caught it, and trained on 0.0 for every program."""
    scripted.answer = lambda source: Execution(Verdict.INFRA if "lost" in source else Verdict.OK, b"7")
    texts = [answer("lost"), answer("kept")]
    info = {"test_cases": INFO["test_cases"][:1]}
    assert code_reward(texts, [info] * 2) == [None, 1.0]
    assert binary_code_reward(texts, [info] * 2) == [None, 1.0]


def test_without_a_program_no_sandbox_is_started(monkeypatch):
    monkeypatch.setattr(code, "shared_sandbox", lambda: pytest.fail("started"))
    assert code_reward(["nothing", answer(" ")], [INFO, INFO]) == [0.0, 0.0]
    assert code_reward([], []) == []


def test_reasoning_that_the_prompt_began_must_close_first():
    draft = f"```python\n{ADD}\n```"
    assert reward(draft) == 1.0
    assert reward(draft, require_reasoning=True) == 0.0
    assert reward(draft, prompts=["Add.\n<think>\n"]) == 0.0
    assert reward(f"hm\n</think>\n{draft}", prompts=["Add.\n<think>\n"]) == 1.0


def test_the_reward_works_inside_a_running_event_loop_and_in_a_thread():
    """`asyncio.run` in open-r1's code rewards raised inside a Jupyter kernel."""

    async def cell():
        return reward(answer(ADD))

    assert asyncio.run(cell()) == 1.0
    found = []
    thread = threading.Thread(target=lambda: found.append(reward(answer(ADD + " "))))
    thread.start()
    thread.join(60)
    assert found == [1.0]


def _judge_in_child(results):
    results.put(reward(answer(ADD + "  # in the child")))


def test_a_forked_process_starts_a_sandbox_of_its_own():
    ours = code.shared_sandbox()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_judge_in_child, args=(results,))
    child.start()
    assert results.get(timeout=60) == 1.0
    child.join(60)
    assert code.shared_sandbox() is ours
    assert reward(answer(ADD + "  # in the parent")) == 1.0


def test_settings_that_change_replace_the_sandbox(monkeypatch):
    made = []

    class Recorded:
        def __init__(self, *, workers, **options):
            self.workers, self.options, self.closed = workers, options, False
            made.append(self)

        def close(self):
            self.closed = True

    code.close_shared()
    monkeypatch.setattr(code, "Sandbox", Recorded)
    monkeypatch.setattr(code, "default_workers", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    before = code._options
    code.configure(tier="landlock", unsafe=True, fork_server=False)
    first = code.shared_sandbox()
    code.configure(tier="landlock", unsafe=True, fork_server=False)
    assert code.shared_sandbox() is first
    assert (first.workers, first.options["tier"], first.options["unsafe"]) == (2, "landlock", True)
    code.configure(workers=5, limits=Limits(cpu_seconds=9))
    assert first.closed
    assert (code.shared_sandbox().workers, made[1].options["limits"].cpu_seconds) == (5, 9)
    code.configure(**before)


def test_a_machine_without_isolation_stops_the_training_with_a_message(monkeypatch):
    def none_works(*_, **__):
        raise SandboxError("no tier works here")

    code.close_shared()
    monkeypatch.setattr(code, "Sandbox", none_works)
    with pytest.raises(SandboxError, match="no tier"):
        reward(answer(ADD))


def test_a_provider_that_runs_programs_elsewhere_is_refused():
    with pytest.raises(ValueError, match="must be local, found 'e2b'"):
        reward(answer(ADD), provider_type="e2b")


def test_rows_must_match_and_languages_may_be_held_to_one():
    with pytest.raises(ValueError, match="1 rows for 2 completions"):
        code_reward(["a", "b"], [INFO])
    mixed = [INFO, {**INFO, "language": "cpp"}]
    with pytest.raises(ValueError, match="of one language, found cpp, python"):
        code_reward(["a", "b"], mixed, enforce_same_language=True)
    assert code_reward(["a", "b"], mixed) == [0.0, 0.0]


GOOD = answer(ADD)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, 1.0),
        (answer(ADD, "py"), 1.0),
        (GOOD.replace("```python", "Here:\n```python").replace("```\n<", "```\nIt adds.\n<"), 1.0),
        (GOOD + "\nand more", 0.0),  # MULTILINE's `$` accepted it
        ("and more\n" + GOOD, 0.0),
        (answer(ADD, "cpp"), 0.0),
        (answer(ADD, ""), 0.0),
        (answer(" "), 0.0),
        (answer(ADD, end=""), 0.0),
        ("<think>\n```python\na\n```\n</think>\n<answer>\n7\n</answer>", 0.0),
        ("<think>\n\n</think>\n" + GOOD.split("</think>\n")[1], 0.0),
        (f"```python\n{ADD}\n```", 0.0),
    ],
)
def test_the_form_is_reasoning_then_a_program_in_the_answer(text, value):
    assert get_code_format_reward()([text]) == [value]


def test_the_form_follows_the_language_of_each_row():
    texts = [answer("int main(){}", "c++"), answer(ADD)]
    assert get_code_format_reward("cpp")(texts) == [1.0, 0.0]
    assert get_code_format_reward()(texts, language=["cpp", "python"]) == [1.0, 1.0]
    assert get_code_format_reward().__name__ == "code_format_reward"
    with pytest.raises(ValueError, match="unknown language 'java'"):
        get_code_format_reward("java")
