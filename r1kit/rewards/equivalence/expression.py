r"""Read short LaTeX expressions into exact terms: `normalised` text, then `unit_of` it, then `read_terms`.

Most answers are numbers, fractions, surds, multiples of pi or small polynomials. Reading them takes about ten
microseconds here and milliseconds in math-verify. Anything else (functions, sums in a denominator, ambiguous
notation such as `1/2x`) raises `Unknown` and is left to math-verify.

`Terms` are sums of products of rationals, square roots, constants and letters, in normal form: a dict from a
monomial to its rational coefficient. A monomial is a square-free radicand under one root and atoms with their
powers, sorted: `2x\sqrt{3}` is `{(3, (("x", 1),)): 2}`. Two values are equal exactly if their terms are.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

LONGEST_ANSWER = 2000
"""Characters; a longer answer is wrong."""

PROSE_WORDS = 4
"""From this many words on, text is prose and not a value such as "5 square metres"."""

ROW_END = "\x1e"
"""Replaces the two backslashes that end a row of a matrix, which look like the start of a command."""

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp mod gcd lcm max min det arcsin arccos arctan sqrt inf".split()  # noqa: SIM905
)

# The text of an answer: one spelling for each notation; numbers, words, brackets.

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
"""Two or three letters that look like a word ("no", "red") and not like a product ("ab", "xyz")."""
_OPENING, _CLOSING = "([{", ")]}"
_DEEPEST_BRACES = 40


def normalised(text: str) -> str:
    """Return the answer in one spelling; empty if nothing is left, or if its braces do not match."""
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
        if "\\\\" in text:  # outside a matrix: a command escaped twice
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
    """Check for plain digits, perhaps with a sign and a point."""
    return bool(_NUMBER.fullmatch(text))


def is_prose(text: str) -> bool:
    """Check for so many words that the text has no one value."""
    words = _PROSE_WORD.findall(_ENVIRONMENT.sub("", text))
    return sum(word not in FUNCTIONS for word in words) >= PROSE_WORDS


def plain_words(text: str) -> str | None:
    """Return words in lower case, a date's number included; None for an expression."""
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
    r"""Remove braces, brackets around one value, or a `\text{}` that enclose all of the text."""
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
    """Split text at the separators outside all brackets."""
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
    """Return the index of the bracket, of any kind, that closes the one at `at`; -1 if none does."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] in _OPENING) - (text[place] in _CLOSING)
        if not depth:
            return place
    return -1


def _digits(found: re.Match) -> str:
    return re.sub(r"\D", "", found[1])


def _balanced(text: str) -> bool:
    """Check that the braces of LaTeX groups match, and nest at most _DEEPEST_BRACES deep."""
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


# Units: what may follow or precede a value, and which spellings mean the same.

_UNIT_SPELLINGS = {
    "metre": "m meter meters metre metres", "centimetre": "cm centimeter centimeters centimetre centimetres",
    "millimetre": "mm millimeter millimeters millimetre millimetres", "foot": "ft foot feet",
    "kilometre": "km kilometer kilometers kilometre kilometres", "inch": "in inch inches",
    "mile": "mi mile miles",
    "yard": "yd yard yards", "gram": "g gram grams", "kilogram": "kg kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "second": "s sec second seconds", "minute": "min minute minutes", "hour": "h hr hrs hour hours",
    "day": "day days", "week": "week weeks", "month": "month months", "year": "yr year years",
    "litre": "l liter liters litre litres", "millilitre": "ml milliliter milliliters millilitre millilitres",
    "dollar": "dollar dollars usd", "cent": "cent cents", "euro": "euro euros",
    "degree": "degree degrees deg",
    "radian": "rad radian radians", "am": "am a.m.", "pm": "pm p.m.", "mph": "mph", "volt": "v volt volts",
    "unit": "unit units", "square": "square sq", "cubic": "cubic cu", "per": "per",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNIT_SPELLINGS.items() for word in words.split()}
_MULTIPLES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_MULTIPLE = re.compile(rf"(.*[\d)}}])\s*(\\text\{{\s*)?({'|'.join(_MULTIPLES)})(?![A-Za-z])\s*(.*)")
_TEXT_UNIT = re.compile(r"(.*[\d)}a-z])\s*\\text\{([^{}]*)\}(?:\^\{?([23])\}?)?", re.DOTALL)
_BARE_UNIT = re.compile(r"(.*?[\d)}])(\s*)([A-Za-z][A-Za-z./ ]*?)(?:\^\{?([23])\}?)?")
_CIRCLE = re.compile(r"(.*\S)\s*\^(?:\{\s*\\circ\s*\}|\\circ)\s*([CF]|\\text\{\s*[CF]\s*\})?")
_MONEY = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen"}
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\{\s*\\?(?:%|percent|per cent)\s*\}|(?<![A-Za-z])(?:percent|per cent)$)"
)
_MIXED = re.compile(r"(-?)(\d+) (\d+)/(\d+)")


def unit_of(text: str) -> tuple[str, str]:
    """Split text into a value and its unit: `%`, a known unit's name, `?` and an unknown word, or "".

    A bare letter after a space is marked with `*`, because "5 m" may also be a product.
    """
    multiple = _MULTIPLE.fullmatch(text)
    if multiple:
        rest = re.sub(r"\\text\{\s*\}", "", (multiple[2] or "") + multiple[4])
        text = f"{multiple[1]}*{_MULTIPLES[multiple[3]]} {rest}".strip()
    if text[:1] in _MONEY or text[-1:] in _MONEY or text[:2] in ("-$",):
        sign = next(s for s in _MONEY if s in text)
        return text.replace(sign, "", 1).strip(), _MONEY[sign]
    percent = _PERCENT.search(text)
    if percent and percent.end() == len(text):
        return _expression(text[: percent.start()]), "%"
    circle = _CIRCLE.fullmatch(text)
    if circle:
        scale = re.sub(r"\\text|[{} ]", "", circle[2] or "")
        return _expression(circle[1]), f"degree {scale}".strip()
    found = _TEXT_UNIT.fullmatch(text)
    if found:
        unit = unit_name(found[2], found[3])
        return (_expression(found[1]), unit) if unit is not None else (text, "")
    found = _BARE_UNIT.fullmatch(text)
    if found and not re.search(r"\\[A-Za-z]+$", found[1]):
        words = found[3].lower().split()
        known = all(re.sub(r"/.*", "", w) in _UNIT_OF for w in words) or all(len(w) > 2 for w in words)
        if known and words[-1] not in FUNCTIONS:
            unit = unit_name(found[3], found[4])
            if len(found[3]) == 1:
                return (_expression(found[1]), f"*{found[3]}") if found[2] else (text, "")
            return (_expression(found[1]), unit) if unit is not None else (text, "")
    return _expression(text), ""


def _expression(text: str) -> str:
    """Write `1 1/2` as a mixed number in LaTeX, since `read_terms` would refuse it."""
    mixed = _MIXED.fullmatch(text.strip())
    if mixed and 0 < int(mixed[3][:9]) < int(mixed[4][:9]):
        return f"{mixed[1]}{mixed[2]}\\frac{{{mixed[3]}}}{{{mixed[4]}}}"
    return text.strip()


def unit_name(text: str, exponent: str | None = None) -> str | None:
    """Return the canonical unit, `?word` for a thing counted, None for text that is more than a unit."""
    text = text.strip().lower().rstrip(".") if "." not in text.strip()[:-1] else text.strip().lower()
    text = text.replace("/", " per ").replace("^", "")
    words = text.split()
    if not words:
        return ""
    if len(words) >= PROSE_WORDS or not all(re.fullmatch(r"[a-z.'-]+[23]?", word) for word in words):
        return None
    names = [_UNIT_OF.get(word.rstrip("23"), "") for word in words]
    if not all(names):
        return "?" + words[-1].rstrip("s")
    power = exponent or next((word[-1] for word in words if word[-1] in "23"), None)
    names = [{"square": "^2", "cubic": "^3"}.get(name, name) for name in names]
    if power:
        names.append(f"^{power}")
    per = names.index("per") if "per" in names else len(names)
    return " ".join([*sorted(names[:per]), *names[per:]])


# Exact terms and their arithmetic.

Terms = dict[tuple[int, tuple[tuple[str, int], ...]], Fraction]

CONSTANTS = {"\\pi": math.pi, "e": math.e}
INFINITE = "\\infty"
_ONE = (1, ())
_LARGEST_BITS = 7000  # about the 2000 digits that an answer may have; 10^{10^{10}} must never be computed
_LARGEST_POWER = 24  # of something with letters
_MOST_TERMS = 80
_LARGEST_RADICAND = 10**6  # made square-free by trial division


class Unknown(ValueError):
    """A text or value that this module does not handle."""


class Meaningless(ValueError):
    """Text without a value: a division by zero, two numbers with nothing between them."""


class TooLarge(ValueError):
    """A number with more digits than an answer may have; compared as written, never computed."""


def constant(value: Fraction | int) -> Terms:
    """Return a rational number as terms."""
    return {_ONE: Fraction(value)} if value else {}


def rational(terms: Terms) -> Fraction | None:
    """Return the value if it is a rational number, else None."""
    if not terms:
        return Fraction(0)
    return terms[_ONE] if len(terms) == 1 and _ONE in terms else None


def approximate(terms: Terms) -> float | None:
    """Return the value in floating point, or None if it contains a letter."""
    total = 0.0
    try:
        for (radicand, atoms), coefficient in terms.items():
            value = float(coefficient) * math.sqrt(radicand)
            for atom, power in atoms:
                if atom not in CONSTANTS:
                    return None
                value *= CONSTANTS[atom] ** power
            total += value
    except OverflowError:
        return None
    return total


def add(one: Terms, other: Terms, sign: int = 1) -> Terms:
    """Return one + sign * other."""
    total = dict(one)
    for monomial, coefficient in other.items():
        value = total.get(monomial, Fraction(0)) + sign * coefficient
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    return total


def multiply(one: Terms, other: Terms) -> Terms:
    """Multiply term by term; raise Unknown for too many terms, TooLarge for too many digits."""
    if len(one) * len(other) > _MOST_TERMS:
        raise Unknown("too many terms")
    total: Terms = {}
    for (root_1, atoms_1), value_1 in one.items():
        for (root_2, atoms_2), value_2 in other.items():
            if _bits(value_1) + _bits(value_2) > _LARGEST_BITS:
                raise TooLarge
            shared = math.gcd(root_1, root_2)
            value = value_1 * value_2 * shared
            powers = dict(atoms_1)
            for atom, power in atoms_2:
                powers[atom] = powers.get(atom, 0) + power
            if "i" in powers:
                quarter = powers.pop("i") % 4
                value = -value if quarter >= 2 else value
                if quarter % 2:
                    powers["i"] = 1
            if INFINITE in powers and (len(powers) > 1 or powers[INFINITE] != 1):
                raise Unknown("arithmetic with infinity")
            atoms = tuple(sorted((atom, power) for atom, power in powers.items() if power))
            monomial = (root_1 * root_2 // shared**2, atoms)
            total = add(total, {monomial: value})
    return total


def inverse(terms: Terms) -> Terms:
    """Return 1 / terms, for a single term that is not zero."""
    if not terms:
        raise Meaningless("a division by zero")
    if len(terms) != 1:
        raise Unknown("division by a sum")
    ((radicand, atoms), value), *_ = terms.items()
    return multiply(
        {(radicand, ()): 1 / (value * radicand)}, {(1, tuple((a, -p) for a, p in atoms)): Fraction(1)}
    )


def power(base: Terms, exponent: Terms) -> Terms:
    """Raise base to a whole exponent, or to one half."""
    value = rational(exponent)
    if value is None:
        raise Unknown("an exponent with letters")
    if value == Fraction(1, 2):
        return root(base)
    number = rational(base)
    if value.denominator != 1 or (value == 0 and number == 0):
        raise Unknown("a broken exponent")
    if number is not None:
        if _bits(number) * abs(value) > _LARGEST_BITS and abs(number) != 1:
            raise TooLarge
        if not number and value < 0:
            raise Meaningless("a division by zero")
        return constant(number ** int(value))
    if abs(value) > _LARGEST_POWER:
        raise Unknown("a large power")
    result = constant(1)
    for _ in range(abs(int(value))):
        result = multiply(result, base)
    return inverse(result) if value < 0 else result


def root(terms: Terms) -> Terms:
    """Return the square root of a rational number that is not negative."""
    value = rational(terms)
    if value is None or value < 0 or max(value.numerator, value.denominator) > _LARGEST_RADICAND:
        raise Unknown("the root of something else")
    radicand, outside, factor = value.numerator * value.denominator, Fraction(1, value.denominator), 2
    if radicand > _LARGEST_RADICAND:
        raise Unknown("the root of something else")
    while factor * factor <= radicand:
        while radicand % (factor * factor) == 0:
            radicand //= factor * factor
            outside *= factor
        factor += 1
    return {(radicand, ()): outside} if radicand else {}


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def proportional(terms: Terms) -> Terms:
    """Scale terms to a first coefficient of 1: multiples of an equation are the same equation."""
    return multiply(terms, inverse(constant(terms[min(terms)]))) if terms else terms


def frozen(terms: Terms) -> tuple:
    """Return terms as a hashable value."""
    return tuple(sorted(terms.items()))


def terms_as_latex(terms: Terms) -> str:
    """Write terms as LaTeX for math-verify, which drops a last letter as a unit unless it is in brackets."""
    text = ""
    for (radicand, atoms), value in terms.items():
        above, below = abs(value.numerator), value.denominator
        factors = [rf"\frac{{{above}}}{{{below}}}" if below > 1 else str(above)]
        factors += [rf"\sqrt{{{radicand}}}"] if radicand > 1 else []
        factors += [f"{atom}^{{{power}}}" if power != 1 else atom for atom, power in atoms]
        if len(factors) > 1 and factors[0] == "1":
            del factors[0]
        text += ("-" if value < 0 else "+" if text else "") + r" \cdot ".join(factors)
    return f"({text})" if re.search(r"(?<![\\A-Za-z])[A-Za-z]$", text) else text or "0"


# Parsing: each function takes the tokens and a position, and returns terms and the position after them.

_DEEPEST_EXPRESSION = 40
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z](?:_(?:\w|\{\w+\}))?|[-+*/^!(){}])")
_GREEK = "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega pi infty ell"
_LETTERS = frozenset("\\" + name for name in _GREEK.split())


def read_terms(text: str) -> Terms:
    """Return the terms of an expression in the spelling of `normalised`.

    Raises:
        Unknown: an expression that this module does not handle.
        Meaningless: the expression has no value.
        TooLarge: a power in it has more digits than an answer may have.
    """
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            if text[at:].strip():
                raise Unknown(text)
            break
        tokens.append(found[1])
        at = found.end()
    tokens.append("")
    terms, end = _sum(tokens, 0, 0)
    if tokens[end] != "":
        raise Unknown(text)
    return terms


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    if depth > _DEEPEST_EXPRESSION:
        raise Unknown("nested too deeply")
    total: Terms = {}
    sign = 1
    if tokens[at] in ("+", "-"):
        sign, at = (1 if tokens[at] == "+" else -1), at + 1
    while True:
        term, at = _product(tokens, at, depth)
        total = add(total, term, sign)
        if tokens[at] not in ("+", "-"):
            return total, at
        sign, at = (1 if tokens[at] == "+" else -1), at + 1


def _product(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    first = at
    total, at = _factor(tokens, at, depth)
    divided = False
    while True:
        token = tokens[at]
        if token in ("*", "/"):
            negative = tokens[at + 1] == "-"
            factor, at = _factor(tokens, at + 1 + negative, depth)
            factor = multiply(constant(-1), factor) if negative else factor
            total = multiply(total, inverse(factor) if token == "/" else factor)
            divided = divided or token == "/"
        elif token and (token[0].isalpha() or token[0] in "\\({"):
            if divided:
                raise Unknown("1/2x may mean (1/2)x or 1/(2x)")
            follows_whole = at == first + 1 and tokens[first].isdigit() and token == "\\frac"
            factor, end = _factor(tokens, at, depth)
            if follows_whole and all(t.isdigit() or t in "{}" for t in tokens[at + 1 : end]):
                fraction = rational(factor)
                if fraction is None or not 0 < fraction < 1:
                    raise Unknown("2 3/2 is neither a mixed number nor clearly a product")
                total = add(total, factor)  # a mixed number
            else:
                total = multiply(total, factor)
            at = end
        elif token and (token[0].isdigit() or token[0] == "."):
            raise Meaningless("two numbers with nothing between them")
        else:
            return total, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    base, at = _base(tokens, at, depth)
    if tokens[at] == "!":
        value = rational(base)
        if value is None or value.denominator != 1 or not 0 <= value <= 500 or tokens[at + 1] in ("!", "^"):
            raise Unknown("a factorial of something large or broken")
        return constant(math.factorial(int(value))), at + 1
    if tokens[at] != "^":
        return base, at
    at += 1
    negative = tokens[at] == "-"
    exponent, at = _base(tokens, at + negative, depth)
    if tokens[at] in ("^", "!"):
        raise Unknown("a power of a power without braces")
    return power(base, multiply(constant(-1), exponent) if negative else exponent), at


def _base(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    token = tokens[at]
    if not token:
        raise Unknown("the expression ends early")
    if token[0].isdigit() or token[0] == ".":
        return constant(Fraction(token)), at + 1
    if token in ("(", "{"):
        inside, at = _sum(tokens, at + 1, depth + 1)
        if tokens[at] != {"(": ")", "{": "}"}[token]:
            raise Unknown("a bracket stays open")
        return inside, at + 1
    if token == "\\frac":
        above, at = _argument(tokens, at + 1, depth)
        below, at = _argument(tokens, at, depth)
        return multiply(above, inverse(below)), at
    if token == "\\sqrt":
        inside, at = _argument(tokens, at + 1, depth)
        return root(inside), at
    if token[0].isalpha() or token in _LETTERS:
        name = token if token in CONSTANTS or token == "i" else token.lower()
        return {(1, ((name.replace("{", "").replace("}", ""), 1),)): Fraction(1)}, at + 1
    raise Unknown(token)


def _argument(tokens: list[str], at: int, depth: int) -> tuple[Terms, int]:
    r"""Read `{...}` or one digit or letter: `\frac12` is one half, so a longer number is split."""
    token = tokens[at]
    if token == "{":
        return _base(tokens, at, depth)
    if token and token[0].isdigit() and token.isdigit() and len(token) > 1:
        tokens[at : at + 1] = list(token)
        token = tokens[at]
    if token and (token.isdigit() or token.isalpha()):
        return _base(tokens, at, depth)
    raise Unknown("an argument is missing")
