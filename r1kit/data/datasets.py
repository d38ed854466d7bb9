"""The datasets of a run: teacher traces (SFT), prompts (GRPO) and held-out problems (evaluation).

Rows are plain dictionaries until `save`, which checks that no held-out problem is trained on and writes the
sets with the `datasets` library. Columns:

- traces: `messages` (user, assistant), `problem`, `solution`, `level`, `slips`, `hurried`, `verified`
- prompts: `prompt` (one user turn), `solution`, `level`
- heldout: `problem`, `solution`, `level`
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.data.format import user_prompt
from r1kit.data.stories import generate, normalise, stream, write_trace

if TYPE_CHECKING:
    from datasets import Dataset

    from r1kit.settings.profile import DataSettings

Row = dict[str, Any]
TRACES_SEED, PROMPTS_SEED, HELDOUT_SEED, RARE_SEED = 1_000_003, 2_000_003, 3_000_017, 6_000_011
"""Added to a run's seed, so that the three sets and the corpus draw different problems."""


class LeakError(ValueError):
    """A held-out problem is also in the training data."""


def traces_of(world: DataSettings) -> list[Row]:
    """Build the teacher's traces that data.yaml describes.

    A share of them (`rare_share`) has `rare_levels` and is scattered among the others; `traces` is the number
    of both together.
    """
    rare = round(world.traces * world.rare_share) if world.rare_levels else 0
    hurry = world.hurry_rate if world.rare_hurry_rate is None else world.rare_hurry_rate
    rows = build_traces(world.traces - rare, world.seed, world.levels, world.slip_rate, world.hurry_rate)
    if rare:
        rows += build_traces(rare, world.seed + RARE_SEED, world.rare_levels, world.slip_rate, hurry)
        random.Random(f"order-{world.seed}").shuffle(rows)
    return rows


def build_traces(
    n: int,
    seed: int,
    levels: Sequence[int] = (1, 2, 3),
    slip_rate: float = 0.0,
    hurry_rate: float = 0.0,
) -> list[Row]:
    """Build `n` traces as the teacher wrote them, right and wrong.

    `verified` is False in all of them; `r1kit.data.curation.keep_verified` sets it.
    """
    rng = random.Random(f"teacher-{seed}")
    rows = []
    for problem in generate(n, seed + TRACES_SEED, levels):
        trace = write_trace(problem, rng, slip_rate, hurry_rate)
        rows.append(
            {
                "messages": [*user_prompt(problem.text), {"role": "assistant", "content": trace.text}],
                "problem": problem.text,
                "solution": problem.solution,
                "level": problem.level,
                "slips": trace.slips,
                "hurried": trace.hurried,
                "verified": False,
            }
        )
    return rows


def prompts_of(world: DataSettings) -> list[Row]:
    """Build GRPO's prompts that data.yaml describes."""
    return build_prompts(world.prompts, world.seed, world.prompt_levels or world.levels)


def build_prompts(n: int, seed: int, levels: Sequence[int] = (1, 2, 3)) -> list[Row]:
    """Build `n` prompts with the solution to check an answer against, but no answer to imitate."""
    problems = generate(n, seed + PROMPTS_SEED, levels)
    return [{"prompt": user_prompt(p.text), "solution": p.solution, "level": p.level} for p in problems]


def build_heldout(per_level: int, seed: int, levels: Sequence[int] = (1, 2, 3, 4, 5)) -> list[Row]:
    """Build `per_level` different reserved problems of each level, level by level.

    Raises:
        ValueError: a level has too few.
    """
    rows = []
    for level in levels:
        distinct: dict[str, Row] = {}
        drawn = stream(seed + HELDOUT_SEED + level, [level], reserved=True)
        for problem in islice(drawn, 50 * per_level + 1000):
            row = {"problem": problem.text, "solution": problem.solution, "level": level}
            distinct.setdefault(normalise(problem.text), row)
            if len(distinct) == per_level:
                break
        if len(distinct) < per_level:
            raise ValueError(
                f"level {level} has no {per_level} different held-out problems, found {len(distinct)}"
            )
        rows.extend(distinct.values())
    return rows


def examples(heldout: Iterable[Row], level: int, n: int) -> list[Row]:
    """Return the first `n` held-out problems of a level, or of all problems if none has this level."""
    rows = list(heldout)
    return ([row for row in rows if row["level"] == level] or rows)[:n]


def check_disjoint(training: Iterable[Mapping[str, Any]], heldout: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of different held-out problems, after comparing them with the training problems.

    Raises:
        LeakError: a held-out problem, normalised, is a training problem.
    """
    reserved = {normalise(problem_of(row)) for row in heldout}
    leaked = sorted(reserved & {normalise(problem_of(row)) for row in training})
    if leaked:
        raise LeakError(
            f"{len(leaked)} of {len(reserved)} held-out problems are also in the training data, the first: "
            f"{leaked[0]!r}. Draw training problems with reserved=False."
        )
    return len(reserved)


def problem_of(row: Mapping[str, Any]) -> str:
    """Return the problem's text in a row of any of the three sets."""
    return row["problem"] if "problem" in row else row["prompt"][-1]["content"]


def save(sets: Mapping[str, Sequence[Row]], folder: str | Path) -> dict[str, Path]:
    """Write each set to `folder/<name>`; every set except `heldout` is training data.

    Raises:
        LeakError: a held-out problem is also in another set; nothing is written then.
    """
    from datasets import Dataset

    for name, rows in sets.items():
        if name != "heldout" and "heldout" in sets:
            check_disjoint(rows, sets["heldout"])
    paths = {name: Path(folder) / name for name in sets}
    for name, rows in sets.items():
        Dataset.from_list(list(rows)).save_to_disk(str(paths[name]))
    return paths


def save_atomically(rows: Sequence[Row], folder: str | Path) -> None:
    """Write one set next to its folder and rename it when complete, so that no reader sees half of it."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    Dataset.from_list(list(rows)).save_to_disk(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load(path: str | Path) -> Dataset:
    """Load one saved set.

    Raises:
        FileNotFoundError: there is no set at this path.
    """
    from datasets import load_from_disk

    if not Path(path).is_dir():
        raise FileNotFoundError(f"no dataset at {path}: run the stage 01_data first")
    return load_from_disk(str(path))
