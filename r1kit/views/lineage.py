"""The lineage of checkpoints: `tree` prints it for a terminal, `draw` draws boxes from left to right.

Both take the result of `r1kit.pipeline.lineage.family`: stages with their parents, ancestors first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

Members = Sequence[Mapping[str, Any]]
COLUMN, LINE = 2.3, 0.95  # inches from box to box
SHOWN = ("model", "data", "traces", "prompts")  # artifacts with their hash in the tree; `--json` has all
MODEL_KINDS = ("sft", "grpo", "01_data", "02_sft", "04_grpo")


def tree(members: Members) -> str:
    """Draw one line per stage, below the stage that gave its model (or data); other inputs follow it."""
    if not members:
        return "no finished stages yet"
    children: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        children.setdefault(_main_parent(member), []).append(member)
    lines: list[str] = []
    for root in children.get("", []):
        _branch(root, children, "", "", lines, home=members[-1]["run"])
    return "\n".join(lines)


def draw(members: Members, *, title: str = "What each stage depends on") -> Figure:
    """Draw boxes from left to right; full lines are models that were trained on, dashed ones the rest."""
    from matplotlib.patches import FancyBboxPatch

    from r1kit.views.figures import BLUE, GREEN, Picture, described

    place = positions(members)
    wide = 1 + max((x for x, _ in place.values()), default=0)
    high = 1 + max((y for _, y in place.values()), default=0)
    figure = Picture(figsize=(COLUMN * wide, LINE * (high + 1.2)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high + 0.1, -1.1))
    axes.set_title(title, fontsize=10, loc="left")
    axes.axis("off")
    said = []
    for member in members:
        x, y = place[member["path"]]
        colour = BLUE if member["kind"] in MODEL_KINDS else GREEN
        box = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.6, "zorder": 2}
        axes.add_patch(FancyBboxPatch((x - 0.33, y - 0.24), 0.66, 0.48, boxstyle="round,pad=0.03", **box))
        for text, down, size, weight in (
            (short(member), -0.08, 9, "bold"),
            (member["kind"].replace("_", " "), 0.14, 7, "normal"),
        ):
            axes.text(x, y + down, text, ha="center", va="center", fontsize=size, weight=weight, zorder=3)
        for entry in member["parents"]:
            if (source := path_of(entry)) in place:
                axes.add_patch(_arrow(place[source], (x, y), entry["as"] == "model"))
        sources = ", ".join(dict.fromkeys(path_of(entry).partition("/")[2] for entry in member["parents"]))
        said.append(f"{short(member)} ({member['kind']})" + (f" from {sources}." if sources else "."))
    return described(figure, " ".join(said))


def _arrow(start: tuple[int, int], end: tuple[int, int], trained: bool) -> FancyArrowPatch:
    """Return an arrow: straight to a neighbour, else a bow, models above the boxes and data below."""
    from matplotlib.patches import FancyArrowPatch

    from r1kit.views.figures import BLUE, GREY

    (px, py), (x, y), span = start, end, end[0] - start[0]
    style = {"color": BLUE, "linewidth": 1.4} if trained else {"color": GREY, "linestyle": (0, (4, 3))}
    if span == 1 and py == y:
        ends, bend = ((px + 0.36, py), (x - 0.36, y)), 0.0
    else:
        side = -1 if trained else 1
        ends = ((px + 0.2, py + 0.27 * side), (x - 0.2, y + 0.27 * side))
        bend = side * 2 * (0.2 + 0.05 * span) / (span * COLUMN)  # inches of the bow's height, by its length
    return FancyArrowPatch(
        *ends, arrowstyle="-|>", mutation_scale=9, connectionstyle=f"arc3,rad={bend}", zorder=1, **style
    )


def positions(members: Members) -> dict[str, tuple[int, int]]:
    """Place each box: right of all parents, on the main parent's line if that is free."""
    place: dict[str, tuple[int, int]] = {}
    for member in members:
        parents = [place[path_of(p)] for p in member["parents"] if path_of(p) in place]
        column = 1 + max((x for x, _ in parents), default=-1)
        line = place.get(_main_parent(member), (0, 0))[1]
        while (column, line) in place.values():
            line += 1
        place[member["path"]] = (column, line)
    return place


def short(member: Mapping[str, Any]) -> str:
    """Return the stage's last name: `final` of `06_pipeline/final`."""
    return member["stage"].rpartition("/")[2]


def path_of(entry: Mapping[str, Any]) -> str:
    """Return `run/stage` of a parent; a given model has no run, and its name is its path."""
    return f"{entry['run']}/{entry['stage']}" if entry.get("run") else entry["stage"]


def _main_parent(member: Mapping[str, Any]) -> str:
    entries = [entry for entry in member["parents"] if entry.get("run")]
    entries.sort(key=lambda entry: entry["as"] != "model")
    return path_of(entries[0]) if entries else ""


def _branch(
    member: Mapping[str, Any],
    children: Mapping[str, list[Mapping[str, Any]]],
    before: str,
    joint: str,
    lines: list[str],
    *,
    home: str,
) -> None:
    main = _main_parent(member)
    others = dict.fromkeys(path_of(entry) for entry in member["parents"] if path_of(entry) != main)
    name = member["stage"] if member["run"] == home else member["path"]
    also = f"  + {', '.join(_within(other, home) for other in others)}" if others else ""
    commit = (member.get("code") or {}).get("commit") or ""
    content = member.get("content") or {}
    marks = [f"{artifact} {content[artifact][:8]}" for artifact in SHOWN if artifact in content]
    marks += [f"inputs {(member.get('hash') or '?')[:8]}"] + ([f"code {commit[:8]}"] if commit else [])
    lines.append(f"{before}{joint}{name}  {member['kind']}{also}  ({', '.join(marks)})")
    below = children.get(member["path"], [])
    deeper = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[joint]
    for i, child in enumerate(below):
        last = i == len(below) - 1
        _branch(child, children, deeper, "└─ " if last else "├─ ", lines, home=home)


def _within(path: str, home: str) -> str:
    return path.removeprefix(f"{home}/")
