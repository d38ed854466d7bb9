r"""What may be sent to math-verify: only notation that it knows.

It skips what it doesn't know and judges the rest, so that `6 \to 5`, `\cancel{6} 5` and `5 ? 6` were equal to
5 or to 6 (0.9.0, 2026-11-24): what separates two candidates in a way it cannot see lets one of them count.
"""

from __future__ import annotations

import re

from r1kit.rewards.equivalence.forms import Equation, Quantity, Unread, Words
from r1kit.rewards.equivalence.terms import terms_as_latex
from r1kit.rewards.equivalence.text import ROW_END

_KNOWN = """
    frac sqrt binom dbinom tbinom sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln
    lg exp max min gcd lcm det sum prod int iint lim infty partial mathbb mathcal operatorname
    overline bar vec hat text pi alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa
    lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi
    Sigma Phi Psi Omega cup cap setminus in notin subset le ge ne pm lfloor rfloor lceil rceil lvert
    rvert begin end circ angle triangle prime mod pmod bmod to
"""
_COMMANDS = frozenset(_KNOWN.split())
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_CHARACTERS = re.compile(rf"(?:[\w\s.,+\-*/^=<>()\[\]{{}}!|%&'{ROW_END}]|\\[{{}}|%A-Za-z])*", re.ASCII)
_OPERATORS = re.compile(r"[-+*/]\s*[*/]")
_LIMIT_ARROW = re.compile(r"\\lim\s*_\s*\{[^{}]*\\to[^{}]*\}")
_LAST_TEXT = re.compile(r"\\text\{[^{}\d]*\}(?:\^\{?\d\}?)?$")


def askable(text: str) -> bool:
    """True if math-verify knows every sign in text, so that its verdict is about all of it."""
    if not _CHARACTERS.fullmatch(text) or _OPERATORS.search(text):
        return False
    matrix = "\\begin" in text
    if (not matrix and ("&" in text or ROW_END in text)) or "{cases}" in text:
        return False
    if text.count("|") % 2 or re.search(r"(?<![A-Za-z)])'", text):
        return False
    text = _LIMIT_ARROW.sub("", text)
    if set(_COMMAND.findall(text)) - _COMMANDS or re.search(r"\\to(?![A-Za-z])|(?<!\^)(?<!\^\{)\\circ", text):
        return False
    return "\\text" not in _LAST_TEXT.sub("", text)


def form_as_latex(form: object) -> str:
    """A form as LaTeX for math-verify."""
    if isinstance(form, Unread):
        return form.text
    if isinstance(form, Words):
        return rf"\text{{{form.text}}}"
    if isinstance(form, Quantity):
        return terms_as_latex(dict(form.terms)) + ("\\%" if form.unit == "%" else "")
    if isinstance(form, Equation):
        if form.name:
            return f"{form.name}={form_as_latex(form.value)}"
        return f"{terms_as_latex(dict(form.difference))}=0"
    if form.kind == "rows":
        rows = r"\\".join("&".join(map(form_as_latex, row.items)) for row in form.items)
        return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"
    if form.kind[0] in "([":
        return form.kind[0] + ",".join(map(form_as_latex, form.items)) + form.kind[-1]
    if form.kind == "set":
        return r"\{" + ",".join(map(form_as_latex, form.items)) + r"\}"
    return {"union": r"\cup ", "ratio": ":"}.get(form.kind, ",").join(map(form_as_latex, form.items))
