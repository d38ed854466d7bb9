"""Rollouts as HTML: the same prompt at several steps, and nothing a model writes can become markup."""

from __future__ import annotations

import pandas as pd
import pytest
from IPython.display import HTML

from r1kit.views.rollouts import choose_prompt, completion_html, group_html, load_rollouts, side_by_side

HOSTILE = "<script>alert(1)</script><think>\n\\boxed{5} & </think>"


def rows(step: int, prompt: str, reward: float, completion: str = "c") -> list[dict]:
    return [
        {
            "step": step, "prompt": prompt, "solution": "5",
            "completion": f"{completion} {i} at {step}",
            "reward": reward, "reward_accuracy": reward, "reward_format": None if i else 1.0,
            "advantage": 0.0,
        }
        for i in range(3)
    ]  # fmt: skip


@pytest.fixture
def frame():
    steps = [(1, 0.0), (4, 0.2), (6, 0.5), (9, 1.0)]
    parts = [row for step, reward in steps for row in rows(step, "often", reward)]
    return pd.DataFrame(parts + rows(2, "once", 0.1) + rows(3, "twice", 0.1) + rows(10, "twice", 0.9))


def test_the_prompt_that_comes_back_most_widely_is_compared_at_first_middle_and_last_step(frame):
    assert choose_prompt(frame) == ("often", [1, 4, 9])
    assert choose_prompt(frame[frame["prompt"] == "once"]) == ("once", [2])


def test_side_by_side_shows_a_column_per_step_with_reward_parts(frame):
    html = side_by_side(frame, completions=2)
    assert html.count("<section>") == 3
    places = [html.index(f"step {step}") for step in (1, 4, 9)]
    assert places == sorted(places)
    assert html.count("<article>") == 6
    assert "accuracy <b>0.20</b>" in html
    assert "format <b>not judged</b>" in html
    assert "mean reward of 3: 1.00" in html
    assert "<b>Solution</b> 5" in html


def test_prompt_and_steps_can_be_chosen(frame):
    html = side_by_side(frame, prompt="twice", steps=[3, 10])
    assert html.count("<section>") == 2
    with pytest.raises(ValueError, match="nothing was rolled out for prompt 'never'"):
        side_by_side(frame, prompt="never")


def test_without_a_prompt_that_comes_back_three_of_one_level_are_shown():
    parts = [
        row | {"level": level}
        for step in range(1, 10)
        for level in (1, 2)
        for row in rows(step, f"level {level} at {step}", step / 10)
    ]
    html = side_by_side(pd.DataFrame(parts))
    assert "different prompts of one level" in html
    assert [f"<b>Prompt</b> level 1 at {step}" in html for step in (1, 5, 9)] == [True] * 3
    assert "level 2 at" not in html


def test_a_notebook_shows_it_as_html_and_it_is_text_as_well(frame):
    html = side_by_side(frame)
    assert html._repr_html_() == html
    assert HTML(html).data == html


def test_what_a_model_writes_is_escaped_and_its_tags_are_marked():
    html = completion_html(HOSTILE)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert '<span class="tag">&lt;think&gt;</span>' in html
    assert '<span class="box">\\boxed{5}</span> &amp;' in html


def test_prompts_and_completions_are_escaped_in_the_whole_view():
    frame = pd.DataFrame(rows(1, "<img src=x onerror=alert(1)>", 0.0, completion=HOSTILE))
    for html in (side_by_side(frame), group_html(frame, title="<b>title</b>")):
        assert "<script>" not in html
        assert "<img" not in html
        assert "<b>title" not in html


def test_files_are_read_in_order_of_step(tmp_path):
    for step in (10, 2):
        pd.DataFrame(rows(step, "p", 0.5)).to_parquet(tmp_path / f"step_{step:05d}.parquet")
    assert load_rollouts(tmp_path)["step"].tolist() == [2] * 3 + [10] * 3
    assert load_rollouts(tmp_path, steps=[10])["step"].unique().tolist() == [10]
    assert side_by_side(tmp_path).count("<section>") == 2
    with pytest.raises(FileNotFoundError, match="no rollouts in"):
        load_rollouts(tmp_path / "none")
