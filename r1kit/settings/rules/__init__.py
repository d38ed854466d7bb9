"""Rules across settings: values that each file allows, but that do not work together.

A rule is a function that takes a View and yields Problems; its docstring says what goes wrong without it. No
stage starts while a `rule` is violated; `advice` is printed and stops nothing. A new rule is one function in
`data`, `machine` or `training`.
"""

from __future__ import annotations

from dataclasses import replace

from r1kit.settings.errors import Problem
from r1kit.settings.rules import data, machine, training
from r1kit.settings.rules.view import NotKnown, Rule, View

RULES: dict[str, Rule] = {
    name: member
    for module in (data, machine, training)
    for name, member in vars(module).items()
    if isinstance(member, Rule)
}


def check(view: View) -> list[Problem]:
    """Apply all rules and list their problems. A rule that needs a missing or wrong value is skipped."""
    problems = []
    for name, rule in RULES.items():
        try:
            for problem in rule.violations(view):  # what a rule reports before it is skipped stays
                problems.append(replace(problem, rule=name, severity=rule.severity))
        except NotKnown:
            continue
    return problems
