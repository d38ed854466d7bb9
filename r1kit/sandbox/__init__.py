"""Run model-written programs in isolation (`Sandbox`) and judge them by test cases (`judge`).

Standard library only, and importing it starts nothing: a training, a Jupyter kernel and a bare system Python
all use the same code.
"""

from __future__ import annotations

from r1kit.sandbox.execution import Execution, Limits, Verdict
from r1kit.sandbox.runner import Sandbox, SandboxError

__all__ = ["Execution", "Limits", "Sandbox", "SandboxError", "Verdict"]
