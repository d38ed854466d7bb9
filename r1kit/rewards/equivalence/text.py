r"""The text of an answer before it is read: one spelling for each notation; numbers, words, brackets."""

from __future__ import annotations

import re

LONGEST_ANSWER = 2000
"""Characters; a longer "answer" is a wrong one and not worth anyone's time."""

PROSE_WORDS = 4
"""So many words make prose rather than "5 square metres"."""

ROW_END = "\x1e"
"""Stands for the two backslashes that end a row of a matrix, lest they be taken for a command's start."""

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp mod gcd lcm max min det arcsin arccos arctan sqrt inf".split()  # noqa: SIM905
)

_PLAIN_SPELLINGS = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "leq": "\\le", "geq": "\\ge", "leqslant": "\\le",
    "geqslant": "\\ge", "lt": "<", "gt": ">", "neq": "\\ne", "times": "*", "cdot": "*", "div": "/",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "mid": "|",
    "vert": "|", "left": "", "right": "", "displaystyle": "", "textstyle": "", "big": "", "Big": "",
    "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "limits": "", "quad": " ", "qquad": " ",
    "mathrm": "\\text",
    "mathbf": "\\text", "mathit": "\\text", "boldsymbol": "\\text", "textbf": "\\text", "textit": "\\text",
    "textrm": "\\text", "textnormal": "\\text", "mbox": "\\text", "emptyset": "\\{\\}", "lor": ",",
    "varnothing": "\\{\\}", "colon": ":", "degree": "^\\circ", "infin": "\\infty",
}  # fmt: skip
_CHARACTERS = str.maketrans({
    "−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ",
    "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ", "∪": "\\cup ", "∈": "\\in ", "°": "^\\circ ", "²": "^2",
    "³": "^3", "∅": "\\{\\}", "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "；": ";",
    "，": ",", "：": ":", "（": "(", "）": ")", "％": "%", "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ",
    "\u202f": " ", "\u2009": " ",
})  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SPACES = re.compile(r"\\[,;:! ]|~")
_LATEX_GROUP = re.compile(r"(?<![\d.])(\d{1,3}(?:(?:\{,\}|,\s?\\!\s*)\d{3})+)(?!\d)")
_SPACE_GROUP = re.compile(r"(?<![\d.}_^])(\d{1,3}(?:(?:\\[,;: ]|~| )\d{3})+)(?![\d/])")
_COMMA_GROUP = re.compile(r"(?<![\d,.])([1-9]\d{0,2}(?:,\d{3})+)(?![\d]|,\d)")
_OR = re.compile(r",?\s*(?:\\text\{\s*,?\s*(?:or|and)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*")
_INFINITY = re.compile(r"(?<![\\A-Za-z])[Ii]nfinity(?![A-Za-z])")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?![\w.])")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
_SHORT_WORD = re.compile(r"all|\w?[ou]\w?|\w*[eiou]\w*(?<=\w{3})")
"""Of two or three letters, what is rather a word than a product: "no" and "red", not "ab" and "xyz"."""
_OPENING, _CLOSING = "([{", ")]}"
_DEEPEST_BRACES = 40


def normalised(text: str) -> str:
    """One spelling of the answer; empty if nothing is left, or if its braces do not match."""
    text = text.strip()
    if text.isdigit() and text.isascii():
        return text
    if _CONTROL.search(text):
        return ""
    text = re.sub(r"\s+", " ", text.translate(_CHARACTERS))
    for opening, closing in (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            text = text if opening in inner or inner.endswith("\\") else inner.strip()
    text = _SPACE_GROUP.sub(_digits, _LATEX_GROUP.sub(_digits, text))
    if "\\" in text:
        if "\\\\" in text:  # outside a matrix it is a command that was escaped twice
            text = text.replace("\\\\", ROW_END if "\\begin" in text else "\\")
        text = _SPACES.sub(" ", text)
        text = _COMMAND.sub(lambda found: _PLAIN_SPELLINGS.get(found[1], found[0]), text)
        text = text.replace("\\$", "$").replace("{,}", ",")
    if not _balanced(text):
        return ""
    text = _INFINITY.sub(r"\\infty ", text.replace("**", "^"))
    text = _SCIENTIFIC.sub(r"\1*10^{\2}", text)
    text = _OR.sub(", ", text)
    if "(" not in text and "[" not in text and "\\{" not in text:
        text = _COMMA_GROUP.sub(_digits, text)
    text = re.sub(r" +", " ", text.replace(";", ",")).strip()
    while text.endswith((".", ",")) and text[:-1].strip():
        text = text[:-1].rstrip()
    return text[1:].lstrip() if text[:1] == "+" else text


def is_number(text: str) -> bool:
    """True for plain digits, perhaps with a sign and a point."""
    return bool(_NUMBER.fullmatch(text))


def is_prose(text: str) -> bool:
    """True if text has so many words that no value can be told from it."""
    words = _PROSE_WORD.findall(_ENVIRONMENT.sub("", text))
    return sum(word not in FUNCTIONS for word in words) >= PROSE_WORDS


def plain_words(text: str) -> str | None:
    """Words folded to lower case, a date's number included; None for what is rather an expression."""
    if re.fullmatch(r"[A-Z][a-z]{2,} \d{1,2}", text):
        return text.lower()
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text):
        return None
    words = text.lower().split()
    if len(words) == 1:
        word = words[0]
        if len(word) < 2 or word in FUNCTIONS or word == "pi":
            return None
        if len(word) < 4 and not text.istitle() and not _SHORT_WORD.fullmatch(word):
            return None
    return None if all(len(word) == 1 for word in words) else " ".join(words)


def without_wrapping(text: str) -> str:
    r"""Text without the braces, the brackets around one value, or the `\text{}` that enclose all of it."""
    while True:
        text = text.strip()
        inner = ""
        command = re.match(r"\\(?:text|boxed|fbox)(?=\{)", text)
        if command and closes(text, command.end()) == len(text) - 1:
            inner = text[command.end() + 1 : -1]
        elif text[:1] in ("{", "(") and closes(text, 0) == len(text) - 1 and text[-1] in "})":
            inner = text[1:-1] if text[0] == "{" or len(split_top(text[1:-1], ",")) == 1 else ""
        if not inner.strip():
            return text
        text = inner


def split_top(text: str, separator: str) -> list[str]:
    """Text cut at the separators that stand outside all brackets."""
    if separator not in text:
        return [text]
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if not depth and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at = at + len(separator)
            continue
        depth = max(0, depth + (text[at] in _OPENING) - (text[at] in _CLOSING))
        at += 1
    return [*parts, text[start:]]


def closes(text: str, at: int) -> int:
    """The place of the bracket, of whatever kind, that closes the one at `at`; -1 if none does."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        if not depth:
            return place
    return -1


def _digits(found: re.Match) -> str:
    return re.sub(r"\D", "", found[1])


def _balanced(text: str) -> bool:
    """True if the braces of LaTeX's groups match, and don't nest beyond reason."""
    depth, at = 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not 0 <= depth <= _DEEPEST_BRACES:
            return False
        at += 1
    return depth == 0
