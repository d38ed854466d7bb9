"""`r1kit plan`: memory, hours and disk of a profile before anything is downloaded. Pure arithmetic, no torch.

`inputs` reads the profile, `memory` and `hours` compute, `estimate` joins them to the plan of one SFT and one
GRPO, `pipeline_cost` sums the stages of a pipeline. A plan is a bound and an estimate, not a measurement: its
assumptions are printed with it, and `r1kit plan --against RUN` compares it with what a run measured.
"""

from r1kit.machine.plan.estimate import Plan, StagePlan, make_plan
from r1kit.machine.plan.pipeline_cost import PipelinePlan, StageCost, plan_pipeline

__all__ = ["PipelinePlan", "Plan", "StageCost", "StagePlan", "make_plan", "plan_pipeline"]
