"""Offline pass rates: a column measured by a checkpoint, a band kept, answers of other sources dropped."""

from __future__ import annotations

import json
import shutil

import pytest

from r1kit.evaluation import rejection_sampling
from r1kit.evaluation.rejection_sampling import rates_of, within
from r1kit.evaluation.sampler import Completion, Samples
from r1kit.runs.files import read_json
from r1kit.settings.pipelines import PassRateStage
from r1kit.training import program
from tests.training.conftest import tokenizer, world  # noqa: F401 - fixtures

TOLD = PassRateStage(
    name="measured", kind="pass_rate", model="base", samples=4, max_new_tokens=20, batch_size=8
).parameters()
FORM = "<think>\ns\n</think>\n<answer>\n\\boxed{%s}\n</answer>"


def test_a_rate_is_the_mean_over_the_answers_that_were_judged():
    verdicts = [1.0, 0.0, None, 0.0, None, None, 1.0, 1.0, 1.0]
    assert rates_of(verdicts, 3) == [0.5, 0.0, 1.0]
    assert rates_of([None, None], 2) == [None]


def test_both_ends_belong_to_the_band_and_every_prompt_is_counted():
    prompts = [{"prompt": str(i)} for i in range(6)]
    kept, counts = within(prompts, [0.0, 0.1, 0.25, 0.6, 0.7, None], 0.1, 0.6)
    assert kept == [
        {"prompt": "1", "pass_rate": 0.1},
        {"prompt": "2", "pass_rate": 0.25},
        {"prompt": "3", "pass_rate": 0.6},
    ]
    assert counts == {"prompts": 6, "kept": 3, "below": 1, "above": 1, "unjudged": 1, "mean": 0.33}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Jobs over seven prompts, of which the i-th is right i times out of four; the seeds asked."""
    from r1kit.data import datasets

    rows = datasets.build_prompts(7, 0)
    datasets.save({"prompts": rows}, tmp_path)
    place = {row["prompt"][-1]["content"]: i for i, row in enumerate(rows)}
    seeds = []

    class Scripted:
        def sample(self, prompts, sampling, samples):
            seeds.append(sampling.seed)
            numbers = [place[prompt[-1]["content"]] for prompt in prompts]
            return Samples(
                [
                    [
                        Completion(FORM % (rows[n]["solution"] if s < n else "99"), 9, True)
                        for s in range(samples)
                    ]
                    for n in numbers
                ]
            )

    monkeypatch.setattr(rejection_sampling, "sampler_of", lambda job, told: Scripted())

    def job(**changes):
        (tmp_path / "job").mkdir(exist_ok=True)
        inputs = {"prompts": str(tmp_path / "prompts"), "model": str(tmp_path / "model")}
        return program.Job(tmp_path / "job", {"parameters": TOLD | changes}, inputs)

    return job, seeds


def rates(job) -> list[float]:
    from r1kit.data import datasets

    rejection_sampling.measure(job)
    return datasets.load(job.folder / "data")["pass_rate"][:]


def test_the_band_of_the_prompts_is_written_with_its_column(asked):
    job, _ = asked
    assert rates(job()) == [0.25, 0.5]
    counts = read_json(job().folder / "counts.json")
    assert (counts["below"], counts["kept"], counts["above"]) == (1, 2, 4)


def test_another_band_asks_nothing_again_and_other_answers_everything(asked):
    job, seeds = asked
    rates(job())
    assert len(seeds) == 4  # two prompts a shard
    assert rates(job(lowest=0.5, highest=1.0)) == [0.5, 0.75, 1.0, 1.0, 1.0]
    assert len(seeds) == 4
    rates(job(temperature=0.7))
    assert len(seeds) == 8


def test_another_checkpoint_of_the_same_name_is_asked_anew(asked, tmp_path):
    job, seeds = asked
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"one")
    rates(job())
    (tmp_path / "model/model.safetensors").write_bytes(b"other")
    rates(job())
    assert len(seeds) == 8


def test_an_interrupted_measurement_goes_on_with_the_next_shard(asked):
    job, seeds = asked
    whole = rates(job())
    (job().folder / "shards/0000004.json").write_text(json.dumps([])[:1])
    seeds.clear()
    assert rates(job()) == whole
    assert seeds == [2]


def test_an_empty_band_is_an_error_that_says_where_the_prompts_are(asked):
    job, _ = asked
    with pytest.raises(ValueError, match=r"no prompt has a pass rate from 0\.3 to 0\.4: .*'above': 5"):
        rejection_sampling.measure(job(lowest=0.3, highest=0.4))


@pytest.mark.slow
def test_a_checkpoint_measures_prompts_and_grpo_finds_its_pools_in_them(world, tmp_path):  # noqa: F811
    from r1kit.data import datasets
    from r1kit.training.rl.curriculum import pools_of
    from tests.training.conftest import finish, write_job

    told = TOLD | {"prompts": 6, "lowest": 0.0, "highest": 1.0, "max_new_tokens": 8}
    for part in ("base", "tokenizer"):
        shutil.copytree(world / part, tmp_path / "model", dirs_exist_ok=True)
    folder = write_job(tmp_path / "measured", world, tmp_path / "model", parameters=told)
    assert "6 of 6 prompts are in the band" in finish("rejection_sampling", folder, room="evaluation")
    data = datasets.load(folder / "data")
    assert set(data.column_names) == {"prompt", "solution", "level", "pass_rate"}
    assert pools_of({"pass_rate": data["pass_rate"], "level": data["level"]}, 6) == ["10"] * 6
