r"""The grammar of numbers in answers, expected answers, votes and texts.

A number is an optional sign and currency, a numeral, and an optional unit::

    numeral:  12  1,234  1{,}234  .5  3.25  1e5  10^6  1.5 x 10^-3  3/4  \frac{3}{4}  1 1/2  1\frac{1}{2}  2 million
    sign:     + -, and minus, dash and full-width characters for the same signs
    currency: $ \$ € £ ¥ ￥ before the numeral
    unit:     one of a fixed list, with powers and quotients: 5 cm, 18 cm^2, 60 km/h, 50%, 90°, 90^\circ

A text such as 1,2345 or 8 5, which does not match as a whole, is not a number, and no part of it is read as a number.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from fractions import Fraction

_SHORT = 200  # characters of texts whose numbers are kept
MAX_EXPONENT = 4000  # the largest power of ten; Python converts at most 4300 digits

_UNITS = {
    "%": "% percent",
    "°": "° degree degrees deg",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "dm": "dm",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "inch": "inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "t": "tonne tonnes ton tons",
    "lb": "lb lbs",
    "oz": "oz ounce ounces",
    "ml": "ml mL milliliter milliliters millilitre millilitres",
    "l": "l L liter liters litre litres",
    "gallon": "gal gallon gallons",
    "ms": "ms millisecond milliseconds",
    "s": "s sec second seconds",
    "min": "min minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr year years",
    "$": "$ USD dollar dollars",
    "¢": "cent cents ¢",
    "€": "EUR euro euros €",
    "£": "GBP pound pounds £",
    "¥": "CNY RMB JPY yuan yen 元 ¥",
    "rad": "rad radian radians",
    "mph": "mph",
    "Hz": "Hz hertz",
    "N": "N newton newtons",
    "J": "J joule joules",
    "W": "W watt watts",
    "V": "V volt volts",
    "Pa": "Pa pascal pascals",
    "K": "K kelvin",
    "°C": "°C",
    "°F": "°F",
    "": "unit units",
}
UNITS = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "百": 100,
    "千": 10**3,
    "万": 10**4,
    "亿": 10**8,
}

# Characters that are read as a minus: minus signs, hyphens, the short dash.
DASHES = "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"
# Other characters for the same signs. All spaces between thousands become one kind of space.
_SIGNS = str.maketrans(
    {
        **dict.fromkeys(DASHES, "-"),
        **{"\uff0b": "+", "\u22c5": "\u00d7", "\u00b7": "\u00d7", "\u2044": "/", "\u2215": "/", "\uff05": "%"},
        **{"\uffe5": "¥", "\uff04": "$", "\u2009": "\u202f", "\u00a0": "\u202f"},
        **{char: f"{top}/{below}" for char, top, below in ("½12", "⅓13", "⅔23", "¼14", "¾34", "⅕15", "⅛18")},
    }
)
POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
# Markup that changes no value, in the order of its removal. The patterns run in time linear in the text's length.
_MARKUP: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"</?[A-Za-z][^<>]*>|\\[()\[\]]", " "),
        (r"(?<!\\)\$((?:[^$\n\\]|\\[^\n])*)\$", r" \1 "),
        (r"(?<=[0-9])(?:\{,\}|\\,|,\\!)(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\(?:left|right)(?![A-Za-z])|\\!", ""),
        (r"(?<=[0-9])\u202f(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\[,;: ]|~|\u202f|\\q?quad(?![A-Za-z])", " "),
        (r"\^ ?\{? ?\\(?:circ|degree)(?![A-Za-z]) ?\}?|\\degree(?![A-Za-z])", "°"),
        (r"\\(?:times|cdot)(?![A-Za-z]) ?", "\u00d7"),
        (r"(?<=[0-9])(?=\\[dtc]?frac)", " "),
        (r"\\[dtc]?frac ?([0-9]) ?([0-9])(?! ?[0-9])", r"\1/\2"),
        (r"\\[dtc]?frac ?\{ ?([0-9.,]+) ?\} ?\{ ?([0-9.,]+) ?\}(?! ?[0-9])", r"\1/\2"),
        (r"\\(?:text|textbf|mathbf|mathrm|textrm|mbox|boxed|fbox) ?\{([^{}]*)\}(?=\^)", r" \1"),
        (r"\\(?:text|textbf|mathbf|mathrm|textrm|mbox|boxed|fbox) ?\{([^{}]*)\}", r" \1 "),
        (r"\^ ?\{([^{}]*)\}(?! ?[0-9])|\^ ?\(([^()^]*)\)(?! ?[0-9])", lambda m: "^" + (m[1] or m[2] or "").strip()),
        (r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+)", lambda m: "^" + m[1].translate(POWERS)),
        (r"\\(?=[%$])", ""),
        (r"(?<=[0-9])(?: ?(?:[xX*\u00d7]|\*\*) ?)(?=10(?:\^|\*\*)[-+0-9])", "\u00d7"),
        (r"(?<![0-9.])10\*\*(?=[-+0-9])", "10^"),
        (r"(?<=[0-9)])\*\*(?=[-(0-9])", "^"),
        (r"\*\*|__|`", ""),
    )
)
_DIGITS = "[0-9]++"
_DECIMAL = rf"(?:(?:[1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+(?![0-9])|{_DIGITS})(?:\.{_DIGITS})?|\.{_DIGITS})"
_UNIT_NAME = "(?:" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + ")"
_UNIT_WORD = rf"(?:(?:sq|square|cubic)\.? )?{_UNIT_NAME}(?:\^?-?[1-9])?(?![A-Za-z0-9_])"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<currency>[$€£¥]) ?(?P<inner>[-+]?))?"
    rf"(?:(?P<whole>{_DIGITS}) +(?P<part>{_DIGITS})/(?P<parts>{_DIGITS})"
    rf"|(?P<above>{_DECIMAL}) */ *(?P<below>{_DECIMAL})"
    rf"|(?:(?P<factor>{_DECIMAL})\u00d7)?10\^(?P<power>[-+]?{_DIGITS})"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[-+]?{_DIGITS}))?)"
    rf"(?! *[0-9]| */ *[0-9]|[.,:'’_^][0-9]|[^\W0-9]?\d)"
    rf"(?: *(?P<scale>{'|'.join(_SCALES)})(?![A-Za-z]))?"
    rf"(?: *(?P<unit>{_UNIT_WORD}(?: ?(?:/|per ) ?{_UNIT_WORD})?)|(?![A-Za-z0-9_]))"
)
# A word with its digits or power, such as x1 or cm^2; or a sequence of digits and signs, which may be a number.
_SEQUENCE = re.compile(
    r"[A-Za-z][A-Za-z0-9_]*(?:\^-?[A-Za-z0-9]+)?"
    r"|(?P<signs>(?:ATOM)(?:[ \t]*(?:ATOM))*)".replace(
        "ATOM", r"\.?[0-9]+(?:[.,:'’][0-9]+)*(?:[eE][-+]?[0-9]+(?![A-Za-z]))?|[-+*\u00d7÷/^=<>≤≥≈±√()\[\]{}|!%°$€£¥]"
    )
)
_SENTENCE = re.compile(r"(?<=[。\uff01？])|(?<=[.!?])\s|\n")
_RELATION = re.compile(r"[=<>≤≥≈]")
_OPERATION = re.compile(r"(?:\b(?:plus|minus|times|divided by|multiplied by)|[加减乘除]以?) *$")
_BEFORE_OPERATION = re.compile(r" *(?:(?:plus|minus|times|divided by|multiplied by)\b|[加减乘除])")


@dataclasses.dataclass(frozen=True)
class Number:
    """An exact value with its unit, "" if none is written."""

    value: Fraction
    unit: str = ""

    def equals(self, other: Number) -> bool:
        """True if two numbers are equal: a missing unit matches any unit, and 50% is equal to 50 and to 0.5.

        Units are not converted: 1 m is not equal to 100 cm.
        """
        if self.value == other.value and (self.unit == other.unit or not (self.unit and other.unit)):
            return True
        one, two = (n.value / 100 if n.unit == "%" else n.value for n in (self, other))
        return one == two and {self.unit, other.unit} == {"%", ""}


def plain(text: str) -> str:
    """The text with one character for each sign, and without LaTeX and markdown that do not change its value."""
    text = re.sub(r"(?<=[0-9])(?=[½⅓⅔¼¾⅕⅛])", " ", text).translate(_SIGNS)
    for pattern, to in _MARKUP:
        text = pattern.sub(to, text)
    return text


def read_number(text: str) -> Number | None:
    """The number that the whole text is; None for any other text.

    White space around the number and punctuation after it are ignored.
    """
    return _read_short(text) if len(text) <= _SHORT else _read(text)


def _read(text: str) -> Number | None:
    match = _NUMBER.fullmatch(plain(text).strip().rstrip(".,;:!?。，").strip())
    return None if match is None else _number(match)


_read_short = functools.lru_cache(maxsize=4096)(_read)  # the answers to a question are often the same


def parse_number(text: str) -> Fraction | None:
    """The exact value of read_number without its unit; None if the text is not a number."""
    number = read_number(text)
    return None if number is None else number.value


def last_number(text: str) -> str | None:
    """The result that a text states: its last number, as ``plain`` writes it, with its unit.

    None if the last digits of the text are not a result: a part of an expression ("0 + 3", "2x"), a division that is
    not carried out ("12 / 4"), the left side of an equation ("0 + 3 = ?"), several numbers side by side, or not a
    number of the grammar. Questions are ignored, unless the text is one number with a question mark.
    """
    text = plain(text)
    asks = read_number(text) is None
    stated = "\n".join(part for part in _SENTENCE.split(text) if not (asks and part.rstrip().endswith(("?", "？"))))
    sequences = [match for match in _SEQUENCE.finditer(stated) if match["signs"] and re.search("[0-9]", match["signs"])]
    return _result(stated, sequences[-1]) if sequences else None


def _result(text: str, sequence: re.Match[str]) -> str | None:
    """The number that a sequence of digits and signs is, or the number after its last relation sign; else None."""
    start, end = sequence.span()
    if relations := [match.end() for match in _RELATION.finditer(text, start, end)]:
        start = relations[-1]
    elif re.match(r"[A-Za-z0-9_)\]}%°]", text[start - 1 : start]) and text[start] not in "$€£¥":
        return None  # in x+3, 5%-3 and f(3) the 3 is an operand
    elif _OPERATION.search(text[max(0, start - 16) : start]):
        return None
    while start < end and text[start] in " \t([{*":
        start += 1
    while start < end and text[end - 1] in " \t)]}*!":
        end -= 1
    match = _NUMBER.match(text, start)
    number = None if match is None or match.end() < end else _number(match)
    if match is None or number is None or _BEFORE_OPERATION.match(text, match.end()):
        return None
    unevaluated = match["below"] and (
        " " in match[0][match.start("above") - start : match.end("below") - start] or number.value.denominator == 1
    )
    return None if unevaluated else match[0].strip()


def _number(match: re.Match[str]) -> Number | None:
    """The number of a _NUMBER match; None if it is too long, divides by zero, or has an improper part such as 3 5/2."""
    part = match.groupdict()
    if part["sign"] and part["inner"]:
        return None
    try:
        if part["whole"]:
            value = Fraction(int(part["part"]), int(part["parts"]))
            if value >= 1:
                return None
            value += int(part["whole"])
        elif part["above"]:
            value = _decimal(part["above"]) / _decimal(part["below"])
        else:
            power = int(part["power"] or part["exponent"] or 0)
            if abs(power) > MAX_EXPONENT:
                return None
            value = _decimal(part["factor"] or part["decimal"] or "1") * Fraction(10) ** power
    except (ValueError, ZeroDivisionError):  # Python converts at most 4300 digits
        return None
    value *= _SCALES.get(part["scale"], 1)
    return Number(
        -value if "-" in (part["sign"], part["inner"]) else value, unit_of(part["unit"] or part["currency"] or "")
    )


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def unit_of(text: str) -> str:
    """One spelling for each unit: "km/h" for "km per hour", "cm2" for "square cm" and "cm^2"; "" for other text."""
    sides = []
    for side in re.split(r" ?/ ?| ?per ", text):
        words = re.fullmatch(rf"(?:(sq|square|cubic)\.? )?({_UNIT_NAME})(?:\^?(-?[1-9]))?", side)
        if words is None:
            return ""
        power = words[3] or {None: "", "cubic": "3"}.get(words[1], "2")
        sides.append(UNITS[words[2]] + power)
    return "/".join(sides)
