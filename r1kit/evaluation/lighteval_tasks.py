"""The task file for lighteval, and a model that replays answers.

`lighteval.py` starts it in lighteval's environment (`make setup-lighteval`), which does not need r1kit. Tasks
have the prompts of lighteval d3da6b9 and the published samples per problem, which lighteval 0.13 changed
(`aime24` is one sample there now, `math_500` another prompt). The problems come from R1KIT_LIGHTEVAL, a
folder with `tasks.json` and a JSONL file per task, so both harnesses use the same order of choices.
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

EXTRACTED = {  # as in lighteval d3da6b9: a gold in LaTeX, an answer preferably in a box; or a letter
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
    """Return the share of right samples, averaged over problems."""
    judged = MultilingualExtractiveMatchMetric(language=Language.ENGLISH, precision=6, **EXTRACTED[judge])
    return SampleLevelMetric(
        metric_name="pass@1",
        sample_level_fn=AvgAtN(n=samples, sample_scoring_function=judged),
        category=SamplingMethod.GENERATIVE,
        corpus_level_fn=np.mean,
        higher_is_better=True,
    )


def prompt(row: dict, task_name: str = "") -> Doc:
    """Convert a row to lighteval's document; a math gold goes into a formula, as its parser expects."""
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
    """A stand-in for a model that returns the answers on disk, so that lighteval judges the same texts."""

    def __init__(self, config) -> None:
        self.config = config
        config.cache_dir = str(ASKED.parent / "cache")
        self._cache = SampleCache(config)  # the pipeline asks for one
        self.answers = json.loads((ASKED / "answers.json").read_text(encoding="utf-8"))

    @property
    def tokenizer(self):
        """None: nothing is tokenized."""

    @property
    def add_special_tokens(self) -> bool:
        """False: nothing is tokenized."""
        return False

    @property
    def max_length(self) -> int:
        """Effectively no limit."""
        return 2**31

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """Return the answers to each document."""
        return [ModelResponse(text=self.answers[doc.query]) for doc in docs]

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Raise: no task here uses it."""
        raise NotImplementedError

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """Raise: no task here uses it."""
        raise NotImplementedError


def main() -> None:
    """Run lighteval's command line with these tasks only, and with sampling.

    Loading all of lighteval's tasks takes long, and one of them (tinyBenchmarks) downloads a pickle when it
    is imported (0.13.0), which fails offline. Its transformers back end never sets do_sample: a model whose
    generation_config.json does not set it either is decoded greedily at any temperature, and an error if
    several samples are wanted.
    """
    from lighteval.__main__ import app
    from lighteval.models.model_input import GenerationParameters
    from lighteval.tasks.registry import Registry

    original = GenerationParameters.to_transformers_dict
    GenerationParameters.to_transformers_dict = lambda self: (
        original(self) | {"do_sample": self.temperature > 0}
    )
    Registry._load_from_files = Registry._load_from_subdirs = staticmethod(lambda *_: {})
    app()


if __name__ == "__main__":
    main()
