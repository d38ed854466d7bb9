"""Which prompts are asked: by weight, by level, not what is always right, the same on every process."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from r1kit.settings.training import CurriculumSettings
from r1kit.training.rl.curriculum import Curriculum, pools_of

LEVELS = [1] * 10 + [2] * 10 + [3] * 10


def made(strategy: str = "pass_rate", pools: list = LEVELS, seed: int = 0, **keys: float) -> Curriculum:
    settings = CurriculumSettings(strategy=strategy, **{"revisit": 0.0, **keys})
    return Curriculum(settings, pools, seed)


def test_a_prompt_weighs_the_variance_of_its_reward():
    curriculum = made()
    curriculum.update([0, 1, 2], [0.5, 0.9, 1.0])
    assert curriculum.weights([0, 1, 2]) == pytest.approx({0: 0.25, 1: 0.09, 2: 0.0})


def test_a_prompt_that_was_never_asked_borrows_from_its_pool():
    curriculum = made(memory=0.0)
    curriculum.update([0, 10], [0.9, 0.2])
    assert curriculum.weights([5, 15, 25]) == pytest.approx({5: 0.09, 15: 0.16, 25: 0.25})


def test_an_estimate_forgets_with_every_group():
    curriculum = made(memory=0.5)
    curriculum.update([0], [0.5])
    assert curriculum.estimates == {"1": 0.5}  # the first group is all that is known
    curriculum.update([1, 2], [1.0, 1.0])
    assert curriculum.estimates == {"1": pytest.approx((0.25 * 0.5 + 0.5 + 1) / 1.75)}


def test_prompts_are_drawn_in_proportion_to_their_weights():
    curriculum = made(pools=[1, 2])
    curriculum.update([0, 1], [0.5, 0.05])  # weights 0.25 and 0.0475
    drawn = Counter(curriculum.choose(1, step)[0] for step in range(2000))
    assert drawn[1] / 2000 == pytest.approx(0.0475 / 0.2975, abs=0.025)  # three standard deviations


def test_small_weights_are_still_drawn_at_random():
    """With weights of 1e-5 every u^(1/w) was 0, and the first prompts were asked at every step."""
    curriculum = made(memory=0.0)
    curriculum.update([0, 10, 20], [1e-5] * 3)
    assert len({tuple(curriculum.choose(4, step)) for step in range(20)}) == 20


def test_what_is_always_right_or_wrong_is_left_alone_but_for_the_share_to_revisit():
    known = {prompt: float(prompt % 2) for prompt in range(20)}
    curriculum, curious = made(), made(revisit=0.25)
    for each in (curriculum, curious):
        each.update(list(known), list(known.values()))
    assert all(prompt >= 20 for step in range(50) for prompt in curriculum.choose(8, step))
    asked = [prompt for step in range(400) for prompt in curious.choose(8, step)]
    # A quarter is drawn from all that is left after the choice by weight: 20 of about 24.
    assert sum(prompt < 20 for prompt in asked) / len(asked) == pytest.approx(0.25 * 20 / 24, abs=0.03)
    assert curriculum.metrics([20])["curriculum/retired"] == 20


def test_when_all_is_solved_prompts_are_drawn_at_random():
    curriculum = made()
    curriculum.update(range(30), [1.0] * 30)
    assert len(set(curriculum.choose(30, 0))) == 30
    assert curriculum.choose(8, 0) != curriculum.choose(8, 1)


def test_levels_are_opened_one_after_the_other_and_stay_open():
    curriculum = made("levels", promote=0.8, memory=0.0)
    assert curriculum.open_pools == ["1"]
    assert all(prompt < 10 for prompt in curriculum.choose(10, 0))
    curriculum.update([0], [0.7])
    assert curriculum.open_pools == ["1"]
    curriculum.update([1], [0.8])
    assert curriculum.open_pools == ["1", "2"]
    curriculum.update([10], [0.9])
    assert curriculum.open_pools == ["1", "2", "3"]
    curriculum.update([2], [0.1])
    assert curriculum.open_pools == ["1", "2", "3"]


def test_a_level_is_promoted_by_as_many_groups_as_its_estimate_remembers():
    curriculum = made("levels", promote=0.8, memory=0.75)
    for group in range(3):
        curriculum.update([group], [1.0])
        assert curriculum.open_pools == ["1"], "a lucky start proves nothing"
    curriculum.update([3], [1.0])
    assert curriculum.open_pools == ["1", "2"]


def test_the_newest_open_level_is_asked_more_unless_it_teaches_little():
    curriculum = made("levels", promote=0.8, memory=0.0, focus=3.0)
    curriculum.update([0], [0.9])
    assert curriculum.weights([1, 11, 21]) == pytest.approx({1: 0.09, 11: 3 * 0.25, 21: 0.0})
    curriculum.update([10], [0.01])
    assert curriculum.weights([1, 11]) == pytest.approx({1: 0.09, 11: 3 * 0.0099})


def test_what_is_revisited_lies_in_an_open_level_while_there_are_prompts():
    curriculum = made("levels", revisit=1.0)
    assert {LEVELS[prompt] for step in range(20) for prompt in curriculum.choose(8, step)} == {1}
    assert Counter(LEVELS[prompt] for prompt in curriculum.choose(14, 0))[1] == 10


@pytest.mark.parametrize("strategy", ["none", "levels", "pass_rate"])
def test_every_process_makes_the_same_choice_and_another_part_another(strategy):
    one, other = made(strategy, revisit=0.3), made(strategy, revisit=0.3)
    for each in (one, other):
        each.update([0, 1, 12], [0.4, 0.9, 0.1])
    assert one.choose(6, 7) == other.choose(6, 7)
    first = one.choose(6, 7)
    assert not set(first) & set(one.choose(6, 7, part=1, without=first))
    assert made(strategy, seed=1).choose(6, 7) != made(strategy).choose(6, 7)


def test_no_prompt_is_asked_twice_and_too_few_are_refused():
    assert len(set(made(revisit=0.5).choose(30, 0))) == 30
    with pytest.raises(ValueError, match="6 prompts are to be chosen and 5 are left"):
        made().choose(6, 0, without=range(25))


def test_a_restored_curriculum_goes_on_as_if_nothing_had_happened():
    whole, resumed = made(revisit=0.2), made(revisit=0.2)
    whole.update([3, 11, 12], [0.25, 1.0, 0.0])
    resumed.restore(json.loads(json.dumps(whole.state())))
    for step in range(5):
        prompts = whole.choose(6, step)
        assert prompts == resumed.choose(6, step)
        for each in (whole, resumed):
            each.update(prompts, [0.5, 0.25, 0.0, 1.0, 0.75, 0.5])
    assert whole.state() == resumed.state()


def test_what_was_served_is_said_by_pool():
    curriculum = made(memory=0.0)
    curriculum.update([0, 10], [0.9, 0.2])
    assert curriculum.metrics([0, 1, 10, 11]) == {
        "curriculum/share/1": 0.5, "curriculum/share/2": 0.5, "curriculum/share/3": 0.0,
        "curriculum/pass_rate/1": 0.9, "curriculum/pass_rate/2": 0.2, "curriculum/retired": 0.0,
    }  # fmt: skip


def test_pools_are_tenths_of_a_measured_pass_rate_before_levels_before_one_for_all():
    assert pools_of({"pass_rate": [1.0, 0.52, 0.0], "level": [1, 2, 3]}, 3) == ["00", "05", "10"]
    assert pools_of({"level": [1, 3]}, 2) == ["1", "3"]
    assert pools_of({}, 2) == ["all", "all"]
