"""Units: what may follow or precede a value, and which spellings mean the same."""

from __future__ import annotations

import re

from r1kit.rewards.equivalence.text import FUNCTIONS, PROSE_WORDS

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
    """The value and its unit: `%`, a known unit's name, `?` and the word for an unknown one, or nothing.

    A bare letter after a space is marked with `*`: "5 m" may also be a product.
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
    """`1 1/2` as a mixed number, which the reader of expressions would refuse."""
    mixed = _MIXED.fullmatch(text.strip())
    if mixed and 0 < int(mixed[3][:9]) < int(mixed[4][:9]):
        return f"{mixed[1]}{mixed[2]}\\frac{{{mixed[3]}}}{{{mixed[4]}}}"
    return text.strip()


def unit_name(text: str, exponent: str | None = None) -> str | None:
    """The canonical unit, `?word` for a thing counted, None if the text says more than a unit may."""
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
