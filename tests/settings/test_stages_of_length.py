"""The length stages that large profiles describe in a comment are right: every rule passes, and it fits."""

from __future__ import annotations

import pytest
import yaml

from r1kit.machine.plan import make_plan
from r1kit.settings import load_profile
from r1kit.settings.profile import CONFIG_ROOT


def described(profile: str) -> dict:
    """The keys under `# Length stages` in a profile's grpo.yaml, as overrides."""
    text = (CONFIG_ROOT / profile / "grpo.yaml").read_text(encoding="utf-8")
    comment = text.split("# Length stages", 1)[1]
    block = [line[4:] for line in comment.splitlines() if line.startswith("#   ")]
    return {f"grpo.{key}": value for key, value in yaml.safe_load("\n".join(block)).items()}


@pytest.mark.parametrize("name", ["mi350x-8", "h200-8", "r1-zero-7b"])
def test_the_stages_of_a_comment_pass_every_rule_and_fit(name):
    loaded = load_profile(name, described(name))
    stages = loaded.grpo.curriculum.lengths
    assert [stage.max_completion_length for stage in stages] == [8192, 16384, 24576]
    assert make_plan(loaded).stages["grpo"].fits
