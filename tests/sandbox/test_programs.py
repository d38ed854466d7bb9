"""Which part of a completion is its program."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1kit.data import format as completion_format
from r1kit.sandbox import programs
from r1kit.sandbox.programs import Block, blocks, language_name, program


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```py\nprint(1)\n```", "print(1)\n"),  # open-r1: no program
        ("```python3\nprint(1)\n```", "print(1)\n"),
        ("``` Python \nprint(1)\n```", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("Solution: ```python\nprint(1)\n```", "print(1)\n"),
        ("```python\nprint(1)```", "print(1)\n"),
        ("```python\r\nprint(1)\r\nprint(2)\r\n```\r\n", "print(1)\nprint(2)\n"),
        ("1. First:\n   ```python\n   if 1:\n       print(1)\n   ```", "if 1:\n    print(1)\n"),
        ("```python\nprint(1)\nprint(2", "print(1)\nprint(2"),  # cut off by the completion limit
        ("```python\nprint('a\u2028b')\n```", "print('a\u2028b')\n"),
        ("```python\nif 1:\n    print(1)```\n", "if 1:\n    print(1)\n"),
        # A fence inside a docstring is part of the program.
        ("```python\n'''\n    ```\n    f()\n    ```\n'''\n```", "'''\n    ```\n    f()\n    ```\n'''\n"),
        ("print(1)", None),
        ("```python\n\n```", None),
        ("```javascript\nprint(1)\n```", None),
        ("`print(1)`", None),
        ("", None),
    ],
)
def test_a_fenced_block_is_the_program(text, expected):
    assert program(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na\n```\nor\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nprints\n```\n5\n```", "a\n"),  # an output is no program
        ("```python\na\n```\n```cpp\nb\n```", "a\n"),
        ("```python\na\n```\nbetter:\n```python\nb", "a\n"),  # the last complete one
        ("```\n5\n```\n```python\nb", "b"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        ("```python\na\nno, rather\n```python\nb\n```", "b\n"),  # the first was never closed
        ("```python\na\n```\n```python\n\n```", "a\n"),
    ],
)
def test_of_several_blocks_the_last_complete_one_wins(text, expected):
    assert program(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\n```python\na\n```\n</think>\n```python\nb\n```", "b\n"),
        ("<think>\n```python\na\n```\n</think>\nI give up", None),  # open-r1 ran the draft
        ("<think>\n```python\na\n```", None),
        ("a</think>\n<answer>\n```python\nb\n```\n</answer>\n```python\nc\n```", "b\n"),
        ("a</think>\n<answer>\n```python\nb\n```", "b\n"),
        ("a</think>\n```python\nb\n```\n<answer>\n5\n</answer>", None),
        ("a</think>b</think>\n```python\nc\n```", None),
        ("a</think>b<think>\n```python\nc\n```", None),
        ("<answer>1</answer><answer>\n```python\nb\n```</answer>", None),
        ("<answer>\n```python\nb\n```\n</answer>", "b\n"),
    ],
)
def test_only_what_follows_the_reasoning_counts(text, expected):
    assert program(text) == expected


def test_reasoning_that_the_prompt_began_must_be_closed_first():
    assert program("```python\na\n```", reasoning=True) is None
    assert program("hm </think>\n```python\na\n```", reasoning=True) == "a\n"


def test_cpp_has_labels_of_its_own():
    assert program("```c++\nint main(){}\n```", "cpp") == "int main(){}\n"
    assert program("```cpp\nint main(){}\n```", "C++") == "int main(){}\n"
    assert program("```cpp\nint main(){}\n```\n```python\na\n```", "cpp") == "int main(){}\n"
    assert language_name("Python3") == "python"
    with pytest.raises(ValueError, match=r"unknown language 'pythn'.*did you mean 'python'"):
        language_name("pythn")


def test_blocks_say_whether_they_were_closed():
    assert blocks("```py\na\n```\n```text\nb") == [Block("python", "a\n", True), Block("text", "b", False)]


HOSTILE = ["`", "```\n", "```python\n", "``` ` ", "<think>", "<answer>", "```a" * 9, " " * 99]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_million_characters_of_anything_take_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    program(text)
    program("</think>" + text)
    assert time.process_time() - started < 5  # quadratic would be minutes; half a second is usual


PIECES = [
    "```",
    "````",
    "python",
    "py",
    "\n",
    "\r\n",
    " ",
    "    ",
    "x = 1",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join))
def test_no_text_breaks_the_reader_and_every_program_comes_from_the_text(text):
    found = program(text)
    lines = {line.strip("`\r ") for line in text.split("\n")}
    assert found is None or all(line.strip("`\r ") in lines for line in found.split("\n"))


def test_the_tags_are_those_of_the_data():
    for name in ("THINK_OPEN", "THINK_CLOSE", "ANSWER_OPEN", "ANSWER_CLOSE"):
        assert getattr(programs, name) == getattr(completion_format, name)
