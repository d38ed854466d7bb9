"""Reading the test cases of code data."""

from __future__ import annotations

import json

import pytest

from r1kit.sandbox.programs import Case, Problem, read_problem

ADD = {"type": "stdin_stdout", "input": "3 4\n", "output": "7\n"}
CALL = {"type": "function_call", "fn_name": "add", "input": [3, 4], "output": 7}
READ = Case("3 4\n", "7\n")
CALLED = Case("[3, 4]", "7", "add")


@pytest.mark.parametrize(
    ("info", "cases"),
    [
        ({"language": "python", "test_cases": [ADD, CALL]}, (READ, CALLED)),
        (json.dumps({"language": "py", "test_cases": [ADD, CALL]}), (READ, CALLED)),
        ({"language": "python", "test_cases": json.dumps([ADD])}, (READ,)),
        ({"test_cases": [{"input": "3 4\n", "output": "7\n", "fn_name": None}]}, (READ,)),
        ({"test_cases": [{"input": [3, 4], "output": 7, "fn_name": "add"}]}, (CALLED,)),
        ({"test_cases": {"input": ["3 4\n"], "output": ["7\n"], "fn_name": [None], "type": [None]}}, (READ,)),
        ({"inputs": ["3 4\n"], "outputs": ["7\n"]}, (READ,)),
        ({"input_output": json.dumps({"inputs": [[3, 4]], "outputs": [7], "fn_name": "add"})}, (CALLED,)),
        ({"test_cases": {"inputs": [[3, 4]], "outputs": [7]}, "fn_name": "add"}, (CALLED,)),
        ({"inputs": [["3 4", "5 6"]], "outputs": [["7", "11"]]}, (Case("3 4\n5 6", "7\n11"),)),
        ({"test_cases": [{**CALL, "input": "3\n4\n", "output": "7"}]}, (CALLED,)),  # LiveCodeBench
        ({"test_cases": [{**CALL, "input": {"a": 3}}]}, (Case('{"a": 3}', "7", "add"),)),
        ({"test_cases": [ADD, {**ADD, "output": " \n"}]}, (READ,)),  # `pass` would pass it
        ({"test_cases": [{**ADD, "output": 7}]}, (Case("3 4\n", "7"),)),
    ],
)
def test_every_form_of_the_schema_is_read(info, cases):
    assert read_problem(info) == Problem("python", cases)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"language": "python", "test_cases": []}, "nothing can be judged"),  # open-r1: ZeroDivisionError
        ({"language": "python"}, "none found"),
        ({"test_cases": None}, "none found"),
        ({"test_cases": {"inputs": [], "outputs": []}}, "nothing can be judged"),
        ({"test_cases": [{**ADD, "output": ""}]}, "nothing can be judged"),
        ({"test_cases": [{**CALL, "output": None}]}, "nothing can be judged"),
        ({"test_cases": {"inputs": ["1"], "outputs": []}}, "1 of input, 0 of output"),
        ({"test_cases": [{"input": "1"}]}, r"test_cases\[0\]: has no output"),
        ({"test_cases": [ADD, "1"]}, r"test_cases\[1\]: a mapping is needed"),
        ({"test_cases": 5}, "a list is needed, found int"),
        ({"test_cases": "[{"}, "text that is not JSON"),
        ({"test_cases": "[" * 50_000}, "text that is not JSON"),
        ({"test_cases": [{**ADD, "type": "search"}]}, "type must be stdin_stdout or function_call"),
        ({"test_cases": [{**ADD, "input": None}]}, "text is needed, found NoneType"),
        ({"test_cases": [{**CALL, "fn_name": "a.b"}]}, "name of a function, found 'a.b'"),
        ({"test_cases": [{**CALL, "fn_name": None}]}, "name of a function"),
        ({"test_cases": [{**CALL, "input": "x y"}]}, "not JSON"),
        ({"test_cases": [{**CALL, "input": 3}]}, "list or a mapping"),
        ({"test_cases": [{**CALL, "output": {1, 2}}]}, "not JSON"),
        ({"language": "rust", "test_cases": [ADD]}, "unknown language 'rust'"),
        ({"language": "cpp", "test_cases": [CALL]}, "python only"),
        (None, "found NoneType"),
        ("", "not JSON"),
        ([ADD], "found list"),
    ],
)
def test_a_row_that_cannot_be_judged_says_why(info, says):
    with pytest.raises(ValueError, match=says):
        read_problem(info)


def test_a_wrapped_result_may_come_unwrapped_but_a_part_of_one_may_not():
    assert Case("[]", "[5]", "f").accepted() == [[5], 5]
    assert Case("[]", "[5, 6]", "f").accepted() == [[5, 6]]  # APPS accepts 5
