"""A family of stages as lines and as boxes."""

import pandas as pd

from r1kit.views import figures
from r1kit.views.figures import figure_alt, png
from r1kit.views.lineage import draw, positions, tree


def member(stage, kind, *parents, run="here"):
    entries = [{"as": role, "run": where, "stage": name} for role, where, name in parents]
    return {
        "run": run, "stage": stage, "path": f"{run}/{stage}", "kind": kind, "parents": entries,
        "hash": "0123456789abcdef", "content": {"model": "fedcba9876543210"}, "code": {"commit": "c" * 40},
    }  # fmt: skip


FAMILY = [
    member("01_data", "01_data"),
    member(
        "06_pipeline/cold", "sft", ("model", "here", "01_data"), ("traces", "here", "01_data"), run="older"
    ),
    member("06_pipeline/sampled", "rejection_sampling", ("model", "older", "06_pipeline/cold")),
    member("06_pipeline/sft", "sft", ("model", "here", "01_data"), ("traces", "here", "06_pipeline/sampled")),
]


def test_a_stage_stands_below_the_one_whose_model_it_took_and_names_its_other_inputs():
    lines = tree(FAMILY).splitlines()
    assert [line.lstrip("│├└─ ").split("  ")[0] for line in lines] == [
        "01_data",
        "older/06_pipeline/cold",
        "06_pipeline/sampled",
        "06_pipeline/sft",
    ]
    assert lines[2].startswith("│  └─ ")
    assert "+ 06_pipeline/sampled" in lines[3]
    assert "model fedcba98" in lines[0]
    assert "code cccccccc" in lines[0]
    assert tree([]) == "no finished stages yet"


def test_a_box_stands_right_of_all_its_parents_and_on_no_other():
    place = positions(FAMILY)
    assert len(set(place.values())) == len(place)
    for one in FAMILY:
        for entry in one["parents"]:
            assert place[f"{entry['run']}/{entry['stage']}"][0] < place[one["path"]][0]


def test_the_drawing_says_in_words_what_it_shows():
    figure = draw(FAMILY)
    assert len(png(figure)) > 5_000
    assert "sft (sft) from 01_data, 06_pipeline/sampled." in figure_alt(figure)


def test_a_given_model_is_a_parent_without_a_box():
    given = member("06_pipeline/sft", "sft", ("model", None, "Qwen/Qwen2.5-7B"))
    assert "06_pipeline/sft" in tree([given])
    assert "from " in figure_alt(draw([given]))


def test_levels_asked_are_shares_and_lengths_by_level():
    rows = pd.DataFrame({"step": [0, 0, 1, 1], "level": [1, 1, 1, 2], "tokens": [10, 20, 10, 40]})
    alt = figure_alt(figures.levels_asked(rows))
    assert "Level 1: 100% to 50% of the answers, 15 to 10 tokens." in alt


def test_real_problems_are_told_apart_by_their_measured_pass_rate():
    rows = pd.DataFrame(
        {"step": [0, 0, 1, 1], "pass_rate": [0.5, 0.25, 0.5, 0.5], "tokens": [10, 20, 10, 40]}
    )
    alt = figure_alt(figures.levels_asked(rows))
    assert "Pass rate 0.5: 50% to 100% of the answers, 10 to 25 tokens." in alt


def test_rows_without_levels_and_rates_are_counted_together():
    stories = pd.DataFrame({"level": [1, 2, 2], "pass_rate": [0.1, 0.2, 0.3]})
    real = pd.DataFrame({"problem": ["a", "b"], "level": [None, None]})
    counts = figures.counted({"stories": stories, "real": real})
    assert counts["stories"].to_dict() == {1: 1, 2: 2, "all": 0}
    assert counts["real"].to_dict() == {1: 0, 2: 0, "all": 2}


def test_courses_of_no_stage_and_of_two_stages_can_be_drawn():
    rows = [
        {"step": i, "rewards/accuracy_reward/mean": i / 10, "completions/mean_length": 20} for i in (1, 2)
    ]
    assert figure_alt(figures.courses({})) is not None
    assert "one, accuracy of what was asked from 0.1" in figure_alt(
        figures.courses({"one": rows, "two": rows})
    )
