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


def test_every_link_to_a_file_leads_to_one():
    missing = [
        (page.name, link)
        for page in [*PAGES, *LESSONS]
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page))
        if ":" not in link and not (page.parent / link).exists()
    ]
    assert missing == []


def test_every_make_target_that_a_page_names_exists():
    named = pages_and(make_targets_in)
    assert named
    assert [found for found in named if found[1] not in TARGETS] == []


def test_every_make_target_that_a_message_names_exists():
    modules = {path.name: path.read_text() for path in (ROOT / "r1kit").rglob("*.py")}
    named = {name: set(re.findall(r"`make ([a-z][a-z-]*)", text)) for name, text in modules.items()}
    assert {name: targets - TARGETS for name, targets in named.items() if targets - TARGETS} == {}
    assert any(named.values())


def test_every_file_that_a_page_names_exists():
    named = [found for found in pages_and(files_in) if found[0] != LOG]
    assert named
    assert [found for found in named if not (ROOT / found[1]).exists()] == []


def test_every_command_that_a_page_names_is_one_with_these_options():
    named = [found for found in pages_and(commands_in) if found[0] != LOG]
    assert named
    wrong = [(page, command, reason) for page, command in named if (reason := mistake_in(page, command))]
    assert wrong == []


def mistake_in(page, command):
    """What is wrong with a command that a page names; "" for nothing."""
    words = command.split()
    found = COMMANDS
    while hasattr(found, "commands") and words:
        if words[0] not in found.commands:
            return f"r1kit has no {words[0]}"
        found = found.commands[words.pop(0)]
    known = {name for option in found.params for name in option.opts}
    options = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
    if options - known:
        return f"no such options: {sorted(options - known)}"
    given = dict(pairwise(words))
    if not set(given.get("--pipeline", "r1").split(",")) <= PIPELINES:
        return "no such pipeline"
    profile = given.get("--profile", "cpu-tiny")
    if profile == "P":
        return ""
    if profile not in profile_names():
        return "no such profile"
    if page in {lesson.name for lesson in LESSONS}:  # 00 shows a wrong setting on purpose
        return ""
    try:
        changes = [value for name, value in pairwise(words) if name == "--set"]
        settings = load_profile(profile, parse_overrides(changes))
        if "--stages" in given:
            check_stages(settings, requested_stages(given["--stages"], settings))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md"])
def test_what_a_page_writes_into_grpo_yaml_is_accepted_by_the_profile_that_a_reader_has(page):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    load_profile("cpu-tiny", {f"grpo.{key}": value for key, value in yaml_load(block).items()})
