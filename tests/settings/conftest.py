"""A complete, valid profile in tmp_path, and a way to break it."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "machine": """\
device: cpu
environment: {HF_HUB_OFFLINE: "1", OMP_NUM_THREADS: 2}
grace_seconds: 30
expected_minutes: {01_data: 2.0, 02_sft: 2.5}
reference_gflops: 150.0
""",
    "data": """\
source: stories
seed: 7
base_documents: 2000
traces: 4000
prompts: 1000
heldout_per_level: 80
levels: [1, 2, 3]
heldout_levels: [1, 2, 3, 4, 5]
slip_rate: 0.15
vocabulary_size: 352
max_prompt_length: 96
""",
    "base": """\
architecture:
  hidden_size: 128
  intermediate_size: 384
  num_hidden_layers: 3
  num_attention_heads: 4
  num_key_value_heads: 2
  max_position_embeddings: 256
  tie_word_embeddings: true
optimizer: muon
max_steps: 100
learning_rate: 4e-3
per_device_train_batch_size: 32
bf16: false
""",
    "sft": """\
model_name_or_path: 01_data
optimizer: muon
muon_learning_rate: 0.02
row_packing: true
learning_rate: 4e-3
max_steps: 200
per_device_train_batch_size: 32
max_length: 256
save_steps: 50
bf16: false
""",
    "grpo": """\
model_name_or_path: 02_sft
learning_rate: 1e-4
max_steps: 60
per_device_train_batch_size: 64
gradient_accumulation_steps: 2
num_generations: 8
max_completion_length: 96
temperature: 1.0
beta: 0.0
loss_type: dapo
save_steps: 20
bf16: false
rewards:
  - {name: accuracy, weight: 1.0}
  - {name: format, weight: 0.2}
collapse: {learning_rate: 3e-3, max_steps: 20}
""",
    "evaluation": """\
problems_per_level: 70
samples: 4
levels: [1, 2, 3]
temperature: 1.0
top_p: 1.0
max_new_tokens: 96
batch_size: 280
k: [1, 2, 4]
seed: 11
""",
    "accelerate": """\
compute_environment: LOCAL_MACHINE
distributed_type: "NO"
num_processes: 1
mixed_precision: "no"
use_cpu: true
""",
}


@pytest.fixture
def profile_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "configs" / "tiny"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder
