"""Running model-written programs: `Sandbox`, its tiers, and judging programs by test cases.

Standard library only, and nothing is started by importing it: a training, a Jupyter kernel and a bare system
Python all use the same code.
"""

from __future__ import annotations

from r1kit.sandbox.execution import Execution, Limits, Verdict
from r1kit.sandbox.runner import Sandbox, SandboxError

__all__ = ["Execution", "Limits", "Sandbox", "SandboxError", "Verdict"]
