"""The floors of the house: a room imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "r1kit"
FLOORS = [
    {"settings", "machine"},
    {"runs"},
    {"data", "sandbox"},
    {"rewards", "serving"},
    {"training", "evaluation"},
    {"pipeline"},
    {"views", "bench"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]
KNOW_THEIR_NEIGHBOURS = ("machine", "evaluation", "cli", "__main__")
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "r1kit":
            names += [f"r1kit.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("r1kit."))


def test_a_room_imports_only_from_floors_below_it():
    wrong = [
        f"{path.relative_to(PACKAGE)} (floor {FLOOR_OF[here]}) imports {other} (floor {FLOOR_OF[other]})"
        for path in MODULES
        for here in [room(path)]
        for other in set(imported_rooms(path)) - {here}
        if FLOOR_OF[other] > FLOOR_OF[here]
        or (FLOOR_OF[other] == FLOOR_OF[here] and here not in KNOW_THEIR_NEIGHBOURS)
    ]
    assert len(MODULES) > 100
    assert wrong == []


@pytest.mark.parametrize(
    "statement", ["import r1kit", "import r1kit.cli.main", "import r1kit.settings, r1kit.runs.folder"]
)
def test_light_imports_load_no_heavy_library(statement):
    heavy = "{'torch', 'transformers', 'trl', 'datasets', 'pandas', 'matplotlib'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_heavy_library():
    code = (
        "import sys; sys.argv = ['r1kit', '--help']\n"
        "from r1kit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "doctor" in done.stdout
