"""Packages import downwards only, modules never in a circle, and light imports load no heavy library."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "r1kit"
LAYERS = (
    *({"settings"}, {"machine"}, {"runs"}, {"sandbox", "data"}, {"rewards"}, {"serving"}),
    *({"training"}, {"evaluation"}, {"pipeline"}, {"views"}, {"cli"}, {"", "__main__"}),
)
"""From the bottom up; "" is `r1kit/__init__.py`."""
LAYER_OF = {package: number for number, packages in enumerate(LAYERS) for package in packages}


def name_of(path):
    parts = ["r1kit", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imports_of(tree):
    """Names of our modules that a module imports anywhere, also inside functions and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


IMPORTS = {name: set(imports_of(tree)) - {name} for name, tree in MODULES.items()}


def package_of(module):
    return f"{module}.".split(".")[1]


def test_every_package_has_its_layer():
    assert {package_of(module) for module in MODULES} == set(LAYER_OF)


def test_packages_import_only_from_layers_below_their_own():
    upward = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if package_of(other) != package_of(module)
        and LAYER_OF[package_of(other)] >= LAYER_OF[package_of(module)]
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


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
