"""Variants of a GRPO training: parsed from the command line, trained, compared at a target."""

from __future__ import annotations

import pytest

from r1kit.cli.benchmarks import grpo
from r1kit.settings import SettingsError

from ..training.conftest import tokenizer, world, write_job  # noqa: F401


def line(*points: tuple[int, float]) -> list[dict[str, float]]:
    return [{"steps": s, "tokens": 100.0 * s, "seconds": 2.0 * s, "pass@1": value} for s, value in points]


def test_a_cost_lies_on_the_line_between_two_points():
    points = line((10, 0.2), (20, 0.6), (30, 0.5), (40, 0.9))
    assert grpo.cost_of(points, 0.5) == {"steps": 17.5, "tokens": 1750.0, "seconds": 35.0}
    assert grpo.cost_of(points, 0.7) == {"steps": 35.0, "tokens": 3500.0, "seconds": 70.0}
    assert grpo.cost_of(points, 0.1)["steps"] == 10, "nothing is known before the first point"
    assert grpo.cost_of(points, 0.95) is None


def test_a_mean_is_of_all_seeds_or_of_none():
    curves = {
        "none": [line((10, 0.0), (20, 1.0)), line((10, 0.0), (30, 1.0))],
        "levels": [line((10, 0.0), (15, 1.0)), line((10, 0.0), (12, 0.4))],
    }
    found = grpo.compare(curves, [0.4, 0.8])
    assert found["0.4"]["none"]["steps"] == pytest.approx(16)
    assert found["0.4"]["levels"]["ratio"]["steps"] == pytest.approx(12 / 16)
    assert found["0.8"]["levels"]["reached"] == 1
    assert found["0.8"]["levels"]["steps"] is None
    assert "never" in grpo.table(curves, [0.8])


def test_an_arm_has_a_name_or_is_json():
    assert grpo.parse_arms(["none", 'hot={"temperature": 1.2}']) == {
        "none": grpo.ARMS["none"],
        "hot": {"temperature": 1.2},
    }
    with pytest.raises(SettingsError, match="Did you mean `levels`"):
        grpo.parse_arms(["levls"])
    for wrong in ("hot={", "hot=3", "hot="):
        with pytest.raises(SettingsError, match="--arm  hot"):
            grpo.parse_arms([wrong])


def test_what_is_no_training_is_said_before_anything_starts(tmp_path):
    with pytest.raises(SettingsError, match="folder of a GRPO training"):
        grpo.bench(tmp_path, tmp_path / "out", grpo.ARMS)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_arms_are_trained_once_and_have_a_point_every_few_steps(world, tmp_path):  # noqa: F811
    import yaml
    from datasets import Dataset

    from r1kit.data.datasets import build_heldout

    Dataset.from_list(build_heldout(3, 0, (1, 2))).save_to_disk(str(tmp_path / "heldout"))
    keys = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 16}
    rewards = [{"name": "accuracy", "weight": 1.0}, {"name": "tag_count", "weight": 1.0}]
    job = write_job(
        tmp_path / "job",
        world,
        grpo={**keys, "rewards": rewards, "max_steps": 2, "logging_steps": 1, "bf16": False},
        data={"levels": [1, 2]},
        evaluation={"problems_per_level": 3},
    )
    content = yaml.safe_load((job / "resolved.yaml").read_text())
    content["inputs"]["heldout"] = str(tmp_path / "heldout")
    (job / "resolved.yaml").write_text(yaml.safe_dump(content))
    arms = {"none": {}, "levels": grpo.ARMS["levels"]}
    with pytest.raises(SettingsError, match="curiculum"):
        grpo.bench(job, tmp_path / "out", {"none": {}, "x": {"curiculum": None}}, seeds=1, level=2)
    told = []
    curves = grpo.bench(job, tmp_path / "out", arms, seeds=1, level=2, every=1, samples=2, tell=told.append)
    assert [len(curves[name][0]) for name in arms] == [2, 2]
    point = curves["levels"][0][1]
    assert (point["steps"], point["tokens"] > 0, point["seconds"] > 0) == (2, True, True)
    assert len(told) == 2
    assert grpo.bench(job, tmp_path / "out", arms, seeds=1, level=2, every=1, tell=told.append) == curves
    assert len(told) == 2, "what is trained is not trained again"
