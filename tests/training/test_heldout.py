"""Held-out problems while GRPO trains: which are asked, what is logged, which weights are kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from r1kit.settings import SettingsError
from r1kit.settings.profile import GrpoSettings
from r1kit.training.rl.heldout import BEST, MARK, PASS, HeldOut, evaluation_keys, heldout_slice

from .conftest import finish, rows, write_job
from .test_resume import GRPO, assert_same_training, kill_at

HELD = [
    {"problem": f"level {level} problem {n}", "solution": "1", "level": level}
    for level in (1, 2, 3, 4)
    for n in range(10)
]


def own(**given):
    rewards = given.pop("rewards", [{"name": "format", "weight": 0.2}, {"name": "accuracy", "weight": 1.0}])
    return GrpoSettings.model_validate({"rewards": rewards, "eval_every": 5, "eval_samples": 4, **given})


def test_what_the_final_evaluation_asks_and_what_is_never_trained_is_left_out():
    chosen = heldout_slice(HELD, problems=6, evaluated=7, levels=[1, 2, 3])
    assert [row["problem"] for row in chosen] == [
        f"level {level} problem {n}" for level in (1, 2, 3) for n in (7, 8)
    ]
    assert chosen[0]["prompt"] == [{"role": "user", "content": "level 1 problem 7"}]
    assert len(heldout_slice(HELD, problems=60, evaluated=7, levels=[1, 2, 3])) == 9
    with pytest.raises(SettingsError, match="heldout_per_level"):
        heldout_slice(HELD, problems=6, evaluated=10, levels=[1, 2, 3])


def test_real_data_without_levels_is_a_slice_of_its_test_split():
    rows = [{"prompt": [{"role": "user", "content": str(n)}], "solution": str(n)} for n in range(9)]
    chosen = heldout_slice(rows, problems=4, evaluated=80, levels=None)
    assert [row["solution"] for row in chosen] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("problems", "processes", "size"), [(60, 1, 30), (60, 4, 15), (7, 1, 7), (61, 1, 1)])
def test_batches_of_the_evaluation_are_of_one_size_so_that_their_mean_is_pass_at_1(
    problems, processes, size, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    keys = evaluation_keys(own(), {"per_device_train_batch_size": 128, "seed": 1}, range(problems))
    assert keys["per_device_eval_batch_size"] == size * 4
    assert problems // processes % size == 0
    assert (keys["eval_strategy"], keys["eval_steps"], keys["num_generations_eval"]) == ("steps", 5, 4)
    assert evaluation_keys(own(), {"seed": 1}, None) == {"seed": 1}


class Trainer:
    """What the callback needs of one; its weights are a number."""

    def __init__(self):
        self.accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
        self.weights = 0

    def save_model(self, folder):
        from pathlib import Path

        Path(folder).mkdir()
        (Path(folder) / "weights").write_text(str(self.weights))


def test_the_best_weights_are_kept_and_a_best_of_the_future_is_forgotten_on_resume(tmp_path):
    trainer = Trainer()
    job = SimpleNamespace(folder=tmp_path, watchdog=None)
    watch = HeldOut(job, trainer, own())
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    for step, value in [(5, 0.4), (10, 0.7), (15, 0.6)]:
        trainer.weights, state.global_step = step, step
        logs = {"eval_loss": 0.0, "eval_rewards/accuracy_reward/mean": value, "eval_runtime": 2.0, "epoch": 1}
        watch.on_log(None, state, None, logs)
        assert logs == {PASS: value, "heldout/seconds": 2.0, "epoch": 1}
    watch.on_log(None, state, None, train := {"loss": 1.0})
    assert train == {"loss": 1.0}, "a row of the training is left as it is"
    assert json.loads((tmp_path / MARK).read_text()) == {"step": 10, "pass@1": 0.7}
    assert (tmp_path / BEST / "weights").read_text() == "10"
    state.global_step = 5
    watch.on_train_begin(None, state, None)
    assert not (tmp_path / MARK).exists(), "step 10 comes again, and may be killed before it does"


def test_without_a_reward_that_verifies_there_is_no_pass_at_1_to_follow():
    from r1kit.training.rl.heldout import verifying_reward

    assert verifying_reward(own()) == "accuracy"
    with pytest.raises(SettingsError, match="says whether an answer is right"):
        verifying_reward(own(rewards=[{"name": "format", "weight": 1.0}]))


@pytest.mark.slow
def test_a_killed_training_asks_again_what_it_asked_and_keeps_the_same_best(world, tmp_path):
    from datasets import Dataset

    from r1kit.data.datasets import build_heldout

    Dataset.from_list(build_heldout(8, 0, (1, 2))).save_to_disk(str(tmp_path / "heldout"))
    grpo = GRPO | {"max_steps": 6, "save_steps": 2, "eval_every": 2, "eval_problems": 8, "eval_samples": 2}
    evaluation = {"problems_per_level": 4}
    jobs = []
    for name in ("whole", "killed"):
        jobs.append(
            write_job(tmp_path / name, world, grpo=grpo, data={"levels": [1, 2]}, evaluation=evaluation)
        )
        content = yaml.safe_load((jobs[-1] / "resolved.yaml").read_text())
        content["inputs"]["heldout"] = str(tmp_path / "heldout")
        (jobs[-1] / "resolved.yaml").write_text(yaml.safe_dump(content))
    finish("grpo", jobs[0])
    kill_at("grpo", jobs[1], 5)
    finish("grpo", jobs[1])
    assert_same_training(*jobs)
    asked = [(row["step"], row[PASS]) for row in rows(jobs[0]) if PASS in row]
    assert [step for step, _ in asked] == [2, 4, 6]
    assert all(0 <= value <= 1 for _, value in asked)
    assert (jobs[0] / MARK).read_text() == (jobs[1] / MARK).read_text()
    assert (jobs[0] / BEST / "config.json").exists()
