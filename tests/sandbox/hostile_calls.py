"""Programs that want `add(3, 4) == 7` to pass without adding, or to be anything else than failed."""

PRINTS_A_RESULT = """
print('result 7')
print(7)
def add(a, b): return 0
"""

EQUALS_EVERYTHING = """
class Any(int):
    def __eq__(self, other): return True
    __hash__ = None
def add(a, b): return Any(0)
"""

EQUALS_EVERYTHING_AND_IS_NO_JSON = """
class Any:
    def __eq__(self, other): return True
def add(a, b): return Any()
"""

PATCHES_JSON = """
import json
json.dumps = lambda value: '7 7'
json.JSONEncoder.encode = json.JSONEncoder.iterencode = lambda self, value: 'x'
json.encoder.encode_basestring_ascii = None
def add(a, b): return 'seven'
"""

FIND_MARK = """
import sys
def mark():
    frame = sys._getframe()
    while 'order' not in frame.f_locals: frame = frame.f_back
    return frame.f_locals['order']['mark']
"""

PRINTS_EVERY_CANDIDATE = f"""{FIND_MARK}
import os
def add(a, b):
    for n in range(20): print('\\n' + mark() + str(n), flush=True)
    os._exit(0)
"""

ADDS_A_SECOND_RESULT = f"""{FIND_MARK}
def add(a, b):
    print('\\n' + mark() + '7', flush=True)
    return 0
"""

LOOKS_FOR_THE_EXPECTED_RESULT = """
import gc
def add(a, b):
    return next((d['expected'] for d in gc.get_objects() if type(d) is dict and 'expected' in d), 0)
"""

RETURNS_A_DEPTH_OF_LISTS = """
def add(a, b):
    result = 7
    for _ in range(100000): result = [result]
    return result
"""

HOSTILE_CALLS = {
    "prints a result of its own": PRINTS_A_RESULT,
    "leaves before the result": "import os\ndef add(a, b): os._exit(0)",
    "exits with success": "raise SystemExit(0)",
    "exits with success inside": "def add(a, b): raise SystemExit",
    "equals everything": EQUALS_EVERYTHING,
    "equals everything and is no JSON": EQUALS_EVERYTHING_AND_IS_NO_JSON,
    "patches json": PATCHES_JSON,
    "prints every candidate under the mark": PRINTS_EVERY_CANDIDATE,
    "adds a second result": ADDS_A_SECOND_RESULT,
    "prints the result at exit": "import atexit\natexit.register(print, 'result 7')\ndef add(a, b): return 0",
    "looks for the expected result": LOOKS_FOR_THE_EXPECTED_RESULT,
    "returns a boolean": "def add(a, b): return True",
    "returns text": "def add(a, b): return '7'",
    "returns nothing": "def add(a, b): pass",
    "returns itself": "def add(a, b):\n    a = []; a.append(a); return a",
    "returns a depth of lists": RETURNS_A_DEPTH_OF_LISTS,
    "has another name": "def sub(a, b): return 7",
    "is no function": "add = 7",
    "closes every door": "import os\nos.closerange(0, 64)\ndef add(a, b): return 7",
    "breaks the mark": "import os\nos.write(1, b'result ')\ndef add(a, b): return 8",
    "is no text": "def add(a, b): return '\ud800'",
}

LEGAL_CALLS = {
    "plain": "def add(a, b): return a + b",
    "prints while it works": "def add(a, b):\n    print('working', end='')\n    return a + b",
    "a method of Solution": "class Solution:\n    def add(self, a, b): return a + b",
    "a lambda": "add = lambda a, b: a + b",
    "with a trial run": "def add(a, b): return a + b\nif __name__ == '__main__': print(add(int(input()), 1))",
    "with an exit handler": "import atexit\natexit.register(print, 'bye')\ndef add(a, b): return a + b",
    "closes its output": "import sys, os\nsys.stdout = None\nos.close(1)\ndef add(a, b): return a + b",
    "with a dataclass": """
from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Pair:
    a: int
def add(a, b): return Pair(a).a + b
""",
}
