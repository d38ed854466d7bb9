"""A family of stages as lines and as boxes."""

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
