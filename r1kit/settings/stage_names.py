"""Notebook stages by name: files name them, so this floor must know them."""

from __future__ import annotations

STAGES = (
    "00_environment",
    "01_data",
    "02_sft",
    "03_vllm",
    "04_grpo",
    "04b_rewards",
    "05_evaluation",
    "06_pipeline",
)
"""Notebook stages in order."""

MODEL_STAGES = ("01_data", "02_sft", "04_grpo")
"""Stages that leave a model behind, so that `model_name_or_path` may name them."""

STAGE_OF_SECTION = {"base": "01_data", "sft": "02_sft", "grpo": "04_grpo"}
