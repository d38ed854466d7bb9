"""`r1kit plan`: memory, hours and disk of a profile before anything is downloaded. Pure arithmetic, no torch.

A plan is a bound and an estimate beside it, never a measurement: what is assumed is printed with it, and
`r1kit plan --against RUN` prints it beside what a run measured.
"""

from r1kit.machine.plan.pipeline import PipelinePlan, StageCost, plan_pipeline
from r1kit.machine.plan.profile import Plan, StagePlan, make_plan

__all__ = ["PipelinePlan", "Plan", "StageCost", "StagePlan", "make_plan", "plan_pipeline"]
