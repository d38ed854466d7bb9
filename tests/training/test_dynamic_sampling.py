"""Groups that teach nothing are replaced before TRL sees the batch; nothing else about the batch changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from r1kit.settings.training import CurriculumSettings, DynamicSamplingSettings
from r1kit.training.rl.curriculum import Curriculum
from r1kit.training.rl.objective import group_advantages
from r1kit.training.rl.trainer import Group, GrpoTrainer

SIZE, COUNT = 4, 4  # completions of a group, groups of a generation


class Judge:
    """A reward that remembers what it judged: level 1 is always right, level 2 every other time."""

    __name__ = "accuracy_reward"
    needs = ("solution",)

    def __init__(self):
        self.prompts, self.tokens = [], []
        self.hopeless = False

    def applies(self, rows, columns):
        return [True] * rows

    def __call__(self, completions, prompts, level, completion_ids, **columns):
        self.prompts += [prompt[-1]["content"] for prompt in prompts]
        self.tokens += [len(ids) for ids in completion_ids]
        if self.hopeless:
            return [0.0] * len(completions)
        return [1.0 if level[i] == 1 else float(i % 2) for i in range(len(completions))]


def build(world, **keys):
    """A trainer on the tiny model, not started: 16 completions a generation, in two micro-steps of four."""
    from datasets import load_from_disk
    from transformers import AutoTokenizer
    from trl import GRPOConfig

    args = GRPOConfig(
        **{"output_dir": str(world / "unused"), **keys}, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, per_device_train_batch_size=8, gradient_accumulation_steps=4,
        steps_per_generation=2, num_generations=SIZE, max_completion_length=6,
    )  # fmt: skip
    return GrpoTrainer(
        model=str(world / "base"),
        args=args,
        reward_funcs=Judge(),
        train_dataset=load_from_disk(str(world / "prompts")),
        processing_class=AutoTokenizer.from_pretrained(str(world / "tokenizer"), padding_side="left"),
    )


@pytest.fixture(scope="module")
def built(world):
    return build(world)


@pytest.fixture
def trainer(built):
    """The same with nothing asked so far."""
    built.reward_funcs[0].__init__()
    built.model.train()
    built._metrics["train"].clear()
    built._step, built.useful_share, built.state.num_input_tokens_seen = 0, 1.0, 0
    settings = CurriculumSettings(strategy="none")
    built.curriculum = Curriculum(settings, built.train_dataset["level"], seed=0)
    built.dynamic_sampling = None
    return built


def generate(trainer, max_extra: float | None = None, count: int = SIZE * COUNT) -> SimpleNamespace:
    """One generation: what TRL makes of it, the judge's memory and the metrics, one value each."""
    dynamic = None if max_extra is None else DynamicSamplingSettings(max_extra=max_extra)
    trainer.dynamic_sampling = dynamic
    tensors = trainer._generate_and_score_completions([trainer.train_dataset[0]] * count)
    metrics = trainer._metrics["train"]
    assert all(len(values) == 1 for values in metrics.values()), metrics
    found = {name: values[0] for name, values in metrics.items()}
    asked = trainer.reward_funcs[0].prompts[::SIZE]
    trained = [prompt[-1]["content"] for prompt in list(trainer._logs["prompt"])[-count:]][::SIZE]
    return SimpleNamespace(tensors=tensors, metrics=found, asked=asked, trained=trained)


def levels(trainer, prompts: list[str]) -> list[int]:
    known = {row["prompt"][-1]["content"]: row["level"] for row in trainer.train_dataset}
    return [known[prompt] for prompt in prompts]


def test_groups_without_signal_are_replaced_until_the_batch_is_full(trainer):
    done = generate(trainer, max_extra=5.0)
    first = levels(trainer, done.asked[:COUNT])
    assert 1 in first, "nothing to replace: choose another seed"
    assert levels(trainer, done.trained) == [2] * COUNT
    assert len(set(done.asked)) == len(done.asked) > COUNT  # no prompt twice
    assert done.metrics["dynamic/useful_before"] == first.count(2) / COUNT
    assert done.metrics["dynamic/useful_after"] == 1.0
    assert done.metrics["dynamic/extra_groups"] == len(done.asked) / COUNT - 1
    assert done.metrics["dynamic/reward_before"] == (first.count(1) + 0.5 * first.count(2)) / COUNT
    assert done.metrics["reward"] == 0.5
    assert done.metrics["frac_reward_zero_std"] == 0.0


def test_as_many_groups_are_written_at_once_as_will_be_needed(trainer):
    trainer.useful_share = 0.5
    done = generate(trainer, max_extra=2.0)
    first = 2 * COUNT
    expected = trainer.curriculum.choose(first, 0)
    assert done.asked[:first] == [trainer.train_dataset[i]["prompt"][-1]["content"] for i in expected]
    assert done.metrics["curriculum/level_mean"] == sum(levels(trainer, done.asked)) / len(done.asked)


def test_the_bound_holds_and_the_batch_keeps_its_shape(trainer):
    trainer.reward_funcs[0].hopeless = True
    done = generate(trainer, max_extra=0.5)
    assert len(done.asked) == COUNT + COUNT // 2
    assert done.trained == done.asked[:COUNT]
    assert done.tensors["completion_ids"].shape[0] == done.tensors["advantages"].shape[0] == SIZE * COUNT
    assert done.metrics["dynamic/useful_after"] == 0.0
    assert not done.tensors["advantages"].any()


def test_when_all_prompts_were_asked_the_step_goes_on_without_more(trainer):
    trainer.reward_funcs[0].hopeless = True
    done = generate(trainer, max_extra=10.0)
    assert sorted(done.asked) == sorted(row["prompt"][-1]["content"] for row in trainer.train_dataset)
    assert len(done.trained) == COUNT


def test_without_dynamic_sampling_the_curriculum_is_asked_once(trainer):
    done = generate(trainer)
    expected = trainer.curriculum.choose(COUNT, 0)
    assert done.asked == done.trained
    assert done.trained == [trainer.train_dataset[i]["prompt"][-1]["content"] for i in expected]
    assert not [name for name in done.metrics if name.startswith("dynamic/")]
    assert done.metrics["curriculum/share/1"] + done.metrics["curriculum/share/2"] == 1.0


def test_every_completion_is_judged_once_and_every_token_counted(trainer):
    done = generate(trainer, max_extra=5.0)
    judge = trainer.reward_funcs[0]
    assert len(judge.tokens) == SIZE * len(done.asked)
    ids = {
        row["prompt"][-1]["content"]: trainer._tokenize_prompts([row["prompt"]])[0][0]
        for row in trainer.train_dataset
    }
    written = sum(judge.tokens) + SIZE * sum(len(ids[prompt]) for prompt in done.asked)
    assert done.metrics["num_tokens"] == trainer.state.num_input_tokens_seen == written
    first = sum(judge.tokens[: SIZE * COUNT])
    assert done.metrics["dynamic/extra_tokens"] == pytest.approx(sum(judge.tokens) / first - 1)


def test_metrics_of_completions_are_those_of_the_batch_that_is_trained_on(trainer):
    done = generate(trainer, max_extra=5.0)
    lengths = done.tensors["completion_mask"].sum(1).float()
    assert done.metrics["completions/mean_length"] == pytest.approx(lengths.mean().item())
    assert done.metrics["completions/max_length"] == lengths.max().item()


def test_the_advantages_are_those_of_the_chosen_groups(trainer):
    done = generate(trainer, max_extra=5.0)
    rewards = torch.tensor([float(i % 2) for i in range(SIZE * COUNT)])
    assert torch.allclose(done.tensors["advantages"], group_advantages(rewards, SIZE))
    first = trainer.processing_class.decode(done.tensors["prompt_ids"][0], skip_special_tokens=True)
    assert done.trained[0] in first


def test_two_generations_of_one_step_ask_different_prompts(trainer):
    one = generate(trainer)
    trainer._metrics["train"].clear()
    trainer._step = 2  # the second of two generations before the optimizer steps
    other = generate(trainer)
    assert other.trained != one.trained
    assert trainer.state.global_step == 0


def test_a_process_with_half_a_group_is_refused(trainer):
    with pytest.raises(ValueError, match=r"6 completions.* groups of 4"):
        generate(trainer, count=6)


def test_the_share_of_useful_groups_is_remembered_by_a_checkpoint(trainer):
    generate(trainer, max_extra=5.0)
    state = trainer.sampling_state()
    assert 0.5 < state["useful_share"] < 1.0
    trainer.useful_share = 0.0
    trainer.curriculum = Curriculum(trainer.curriculum.settings, trainer.train_dataset["level"], seed=0)
    trainer.restore_sampling(state)
    assert trainer.sampling_state() == state


def test_unscored_rows_make_no_signal():
    nan = float("nan")
    scores = torch.tensor([[1.0, 1.0], [nan, nan]])
    scored = scores[~scores.isnan().all(dim=1)].sum(dim=1)
    assert not Group(0, [], scores, scored).useful
    assert Group(0, [], scores, torch.tensor([1.0, 0.0])).useful
    assert not Group(0, [], scores, torch.tensor([1.2, 1.2 + 1e-7])).useful


def gradient(trainer, inputs, skip: bool) -> tuple[torch.Tensor, int]:
    """Of a batch: its gradient, flat, and how many rows went through the model."""
    trainer.dynamic_sampling, sizes = DynamicSamplingSettings() if skip else None, []
    hook = trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, inputs).backward()
    hook.remove()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters()]), sum(sizes)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo", "cispo"])
def test_rows_without_an_advantage_are_left_out_and_the_gradient_is_the_same(trainer, monkeypatch, loss_type):
    done = generate(trainer, max_extra=0.0)
    flat = levels(trainer, done.trained).count(1)
    assert 0 < flat < COUNT, "nothing to leave out: choose another seed"
    assert done.tensors["advantages"].count_nonzero() == (COUNT - flat) * SIZE, "no advantage by rounding"
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    whole, all_rows = gradient(trainer, done.tensors, skip=False)
    part, rows_left = gradient(trainer, done.tensors, skip=True)
    assert (all_rows, rows_left) == (COUNT * SIZE, (COUNT - flat) * SIZE)
    assert whole.abs().max() > 1e-4
    assert torch.allclose(whole, part, atol=1e-6)


def test_where_no_row_has_an_advantage_one_goes_through_and_moves_nothing(trainer, monkeypatch):
    trainer.reward_funcs[0].hopeless = True
    done = generate(trainer, max_extra=0.0)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    found, rows_left = gradient(trainer, done.tensors, skip=True)
    assert rows_left == 1
    assert not found.any()


def test_a_kl_term_needs_every_row(trainer, monkeypatch):
    trainer.dynamic_sampling = DynamicSamplingSettings()
    assert trainer._skips_zero_advantage
    monkeypatch.setattr(trainer, "beta", 0.1)
    assert not trainer._skips_zero_advantage


def test_what_part_of_the_tokens_was_trained_on_is_said_for_mfu(trainer):
    done = generate(trainer, max_extra=1.0)
    assert len(done.asked) > COUNT
    rows_left = done.tensors["advantages"] != 0
    trained = sum(int(done.tensors[f"{part}_mask"][rows_left].sum()) for part in ("prompt", "completion"))
    counted = trainer.state.num_input_tokens_seen
    assert done.metrics["dynamic/trained_share"] == pytest.approx(trained / counted)
    assert trained < counted


@pytest.mark.slow
def test_two_processes_choose_the_same_groups_and_end_with_the_same_weights(world, tmp_path):
    command = [sys.executable, "-m", "tests.training.two_trainers", str(world), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["processes"] == 2
    assert one["whole_groups"]
    assert one["judged_here"] == other["judged_here"]  # half of all each
    for known in ("weights", "state"):
        assert one[known] == other[known]
    for row, theirs in zip(one["rows"], other["rows"], strict=True):
        assert row["dynamic/extra_groups"] == theirs["dynamic/extra_groups"]
        assert row["dynamic/useful_after"] == 1.0
        assert row["frac_reward_zero_std"] == 0.0
