"""What README, CONTRIBUTING, docs/ and lessons name exists: links, files, make targets, commands, options."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from r1kit.cli.main import app
from r1kit.pipeline.open_run import check_stages
from r1kit.pipeline.stages import requested_stages
from r1kit.settings import load_profile, parse_overrides, profile_names, yaml_load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOG = "experiments.md"  # dated: it keeps the commands of its day
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
COMMANDS = typer.main.get_command(app)
PIPELINES = set(load_profile("cpu-tiny").pipeline.pipelines)
ROOMS = r"(?:r1kit|tests|configs|docs|requirements|sites|notebooks)"


def text_of(page):
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def code_in(text):
    """What stands in code blocks, line by line and without comments, and between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line.split(" #")[0] for block in blocks for line in block.splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def pages_and(pattern, pages=(*PAGES, *LESSONS)):
    """(page, what the pattern found in its code), each once."""
    found = {
        (page.name, match) for page in pages for code in code_in(text_of(page)) for match in pattern(code)
    }
    return sorted(found)


def commands_in(code):
    parts = re.split(r"(?:^|(?<=[\s/]))r1kit (?=[a-z])", code)
    return [part.strip().split("   ")[0] for part in parts[1:]]


def make_targets_in(code):
    return re.findall(r"^make ([a-z][a-z-]*)", code)


def files_in(code):
    return re.findall(rf"^{ROOMS}/[\w./-]*\w", code) if not re.search(r"[<*…]", code) else []


@pytest.mark.parametrize("page", [*PAGES, *LESSONS], ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page))
    missing = [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(("page", "target"), pages_and(make_targets_in))
def test_every_make_target_that_a_page_names_exists(page, target):
    assert target in TARGETS


def test_every_make_target_that_a_message_names_exists():
    modules = {path.name: path.read_text() for path in (ROOT / "r1kit").rglob("*.py")}
    named = {name: set(re.findall(r"`make ([a-z][a-z-]*)", text)) for name, text in modules.items()}
    assert {name: targets - TARGETS for name, targets in named.items() if targets - TARGETS} == {}
    assert any(named.values())


@pytest.mark.parametrize(
    ("page", "file"), [found for found in pages_and(files_in) if found[0] != LOG], ids=lambda value: value
)
def test_every_file_that_a_page_names_exists(page, file):
    assert (ROOT / file).exists()


@pytest.mark.parametrize(
    ("page", "command"),
    [found for found in pages_and(commands_in) if found[0] != LOG],
    ids=lambda value: value,
)
def test_every_command_that_a_page_names_is_one_with_these_options(page, command):
    words = command.split()
    found = COMMANDS
    while hasattr(found, "commands") and words:
        assert words[0] in found.commands, f"r1kit has no {words[0]}"
        found = found.commands[words.pop(0)]
    known = {name for option in found.params for name in option.opts}
    options = [word.split("=")[0] for word in words if re.match(r"--[a-z]", word)]
    assert set(options) <= known
    given = dict(pairwise(words))
    profile = given.get("--profile", "cpu-tiny")
    if profile != "P":
        assert profile in profile_names()
    if profile != "P" and page not in {lesson.name for lesson in LESSONS}:  # 00 shows a wrong one on purpose
        changes = [value for name, value in pairwise(words) if name == "--set"]
        settings = load_profile(profile, parse_overrides(changes))
        if "--stages" in given:
            check_stages(settings, requested_stages(given["--stages"], settings))
    assert set(given.get("--pipeline", "r1").split(",")) <= PIPELINES


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_what_a_page_writes_into_grpo_yaml_is_accepted_by_the_profile_that_a_reader_has(page):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    load_profile("cpu-tiny", {f"grpo.{key}": value for key, value in yaml_load(block).items()})
