"""lighteval's side of the second opinion: a task file and a model that replays answers. It runs in
lighteval's own environment (`make setup-lighteval`), where r1kit need not be; `lighteval.py` starts it.

Tasks carry the prompts of lighteval d3da6b9 and the published samples a problem, which lighteval 0.13 changed
(`aime24` is one sample there now, `math_500` another prompt). The problems come from R1KIT_LIGHTEVAL, a
folder with `tasks.json` and a JSONL file a task, so both harnesses ask the same in the same order of choices.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric
from lighteval.metrics.metrics_sample import AvgAtN
from lighteval.metrics.utils.extractive_match_utils import (
    ExprExtractionConfig,
    IndicesExtractionConfig,
    LatexExtractionConfig,
)
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.abstract_model import LightevalModel
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod
from lighteval.utils.cache_management import SampleCache
from lighteval.utils.language import Language

ASKED = Path(os.environ["R1KIT_LIGHTEVAL"])

EXTRACTED = {  # as in lighteval d3da6b9: a gold in LaTeX, an answer in a box first of all; a letter
    "answer": {
        "gold_extraction_target": [LatexExtractionConfig(), ExprExtractionConfig()],
        "pred_extraction_target": [ExprExtractionConfig(), LatexExtractionConfig(boxed_match_priority=0)],
    },
    "letter": {
        "gold_extraction_target": [IndicesExtractionConfig(prefix_for_extraction="NativeLetters")],
        "pred_extraction_target": [IndicesExtractionConfig(prefix_for_extraction="NativeLetters")],
    },
}


def metric(judge: str, samples: int) -> SampleLevelMetric:
    """The share of right samples, averaged over problems."""
    judged = MultilingualExtractiveMatchMetric(language=Language.ENGLISH, precision=6, **EXTRACTED[judge])
    return SampleLevelMetric(
        metric_name="pass@1",
        sample_level_fn=AvgAtN(n=samples, sample_scoring_function=judged),
        category=SamplingMethod.GENERATIVE,
        corpus_level_fn=np.mean,
        higher_is_better=True,
    )


def prompt(row: dict, task_name: str = "") -> Doc:
    """A row of ours as lighteval's document; a math gold stands in a formula, where its parser looks."""
    letters = list("ABCD")
    if row["judge"] == "letter":
        return Doc(
            task_name=task_name, query=row["prompt"], choices=letters, gold_index=letters.index(row["gold"])
        )
    return Doc(task_name=task_name, query=row["prompt"], choices=[f"${row['gold']}$"], gold_index=0)


TASKS_TABLE = [
    LightevalTaskConfig(
        name=task["name"],
        prompt_function=prompt,
        hf_repo=str(ASKED / task["name"]),
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        few_shots_split=None,
        few_shots_select=None,
        generation_size=task["max_new_tokens"],
        metrics=[metric(task["judge"], task["samples"])],
        stop_sequence=[],  # the end-of-turn token alone
    )
    for task in json.loads((ASKED / "tasks.json").read_text(encoding="utf-8"))
]


class Replay(LightevalModel):
    """Not a model: the answers that r1kit keeps, so that lighteval judges the very same texts."""

    def __init__(self, config) -> None:
        self.config = config
        config.cache_dir = str(ASKED.parent / "cache")
        self._cache = SampleCache(config)  # the pipeline asks for one
        self.answers = json.loads((ASKED / "answers.json").read_text(encoding="utf-8"))

    @property
    def tokenizer(self):
        """There is none; nothing is tokenized."""

    @property
    def add_special_tokens(self) -> bool:
        """There are no tokens."""
        return False

    @property
    def max_length(self) -> int:
        """No bound."""
        return 2**31

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """What was answered to each document."""
        return [ModelResponse(text=self.answers[doc.query]) for doc in docs]

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """No task of ours asks for it."""
        raise NotImplementedError

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """No task of ours asks for it."""
        raise NotImplementedError


def main() -> None:
    """lighteval's command line with our tasks alone: loading all of its own takes long, and one of them
    (tinyBenchmarks) downloads a pickle when it is imported (0.13.0), which no offline machine survives. And
    its transformers back end never asks for sampling: a model whose generation_config.json does not say
    do_sample is decoded greedily at any temperature, and refused where several samples are wanted.
    """
    from lighteval.__main__ import app
    from lighteval.models.model_input import GenerationParameters
    from lighteval.tasks.registry import Registry

    chosen = GenerationParameters.to_transformers_dict
    GenerationParameters.to_transformers_dict = lambda self: (
        chosen(self) | {"do_sample": self.temperature > 0}
    )
    Registry._load_from_files = Registry._load_from_subdirs = staticmethod(lambda *_: {})
    app()


if __name__ == "__main__":
    main()
