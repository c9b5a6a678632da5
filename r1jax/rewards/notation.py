"""Reading a mathematical answer, in LaTeX or as text, into a formula and a unit."""

from __future__ import annotations

import dataclasses
import functools
import re

from r1jax.data.text.numbers import DASHES, POWERS, read_number, unit_of
from r1jax.rewards.extraction import answer_text
from r1jax.rewards.units import read_parts

_FRACTIONS = "½12 ⅓13 ⅔23 ¼14 ¾34 ⅕15 ⅖25 ⅗35 ⅘45 ⅙16 ⅚56 ⅛18 ⅜38 ⅝58 ⅞78"
_CHARACTERS = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width characters
        **dict.fromkeys(DASHES, "-"),
        **{"\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "÷": r"\div ", "π": r"\pi "},
        **{"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "\u222a": r"\cup ", "∩": r"\cap "},
        **{"°": r"^\circ ", "θ": r"\theta ", "β": r"\beta ", "￥": "¥", "∅": r"\emptyset ", "\u211d": r"\mathbb{R}"},
        **{"。": ".", "\u00a0": "~", "\u2009": "~", "\u202f": "~", "\u2044": "/", "\u2215": "/", "…": "..."},
        **{
            "或": " or ",
            "且": " and ",
            "和": " and ",
            "“": '"',
            "”": '"',
            "⌊": r"\lfloor ",
            "⌋": r"\rfloor ",
            "⌈": r"\lceil ",
            "⌉": r"\rceil ",
        },
        **{item[0]: rf"\frac{{{item[1]}}}{{{item[2]}}}" for item in _FRACTIONS.split()},
    }
)


def _repeating(whole: str, fixed: str, repeated: str) -> str:
    """A decimal with repeating digits as a LaTeX fraction."""
    below = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    return rf"\frac{{{int(whole + fixed + repeated) - int('0' + whole + fixed)}}}{{{below}}}"


_UPRIGHT = r"\\(?:text|textrm|mathrm|mbox) ?"
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _scaled(match: re.Match[str]) -> str:
    """A word such as million as a factor; text after it in the same braces stays there."""
    return rf"\cdot {_SCALES[match['scale']]}" + (r"\text{" if match["text"] and not match["end"] else "")


_MARKUP = tuple(
    (re.compile(pattern.replace("SCALES", "|".join(_SCALES))), to)
    for pattern, to in (
        (r"(?<=[\w)\]}])\*\*(?=[\w({\\-])", "^"),  # a power in Python's notation, not markdown
        (r"\*\*|(?<!\w)(?:__|`)|(?:__|`)(?!\w)|</?(?:b|i|em|strong|p|br|span)(?: [a-z]+=[^<>]*)? ?/?>", ""),
        (r"\\not ?=", r"\\ne "),
        (r"\A\s*(?:#+|>) +", ""),
        (r"\A\s*\*(?=\S)([^*]*[^*\s])\*([.\s]*)\Z", r"\1\2"),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(POWERS)}}}"),
        (r"√ ?(\w+)", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt "),
        (r"(?<!\\)\\(?:(?:left|right|[bB]ig+[lrm]?|displaystyle|bf|rm|large|Large)(?![A-Za-z])\.?|!)", ""),
        (r"\\(?:text)?color ?\{[a-z]+\}|\\underline(?![A-Za-z])", ""),
        (r"\\(?:mathbf|mathrm|mathit|mathsf|boldsymbol|bm|text|textbf) ?\{ *([-+0-9.,/]+) *\}", r"\1"),
        (r"(?<=[0-9])\{:\}(?=[0-9])", ":"),
        (r"(?<=[0-9])(?: +|(?P<text> *\\text ?\{ *))(?P<scale>SCALES)(?![A-Za-z])(?P<end> *\})?", _scaled),
        (
            r"\\frac ?\{ ?\\(?:text|mathrm) ?\{(\w+)\} ?\} ?\{ ?\\(?:text|mathrm) ?\{(\w+)\}(\^\w)? ?\}",
            r"\\text{\1/\2\3}",
        ),
        (
            r"(?<=[0-9])[ ~\\]+(?:mathrm ?\{[ ~]*)?(k?m|cm|k?g)(?: *\})? ?(?:\\cdot ?)?(?:\\mathrm ?\{)?(s|h|m)\}?"
            r"\^ ?\{?-1\}?\Z",
            r"\\text{\1/\2}",
        ),
        (r"(?<=[0-9])(?: in| ?\\(?:text|mathrm) ?\{ *in)\.?( *\})?(?=[\s.]*\Z)", " inches"),
        (r"\\textdollar(?![A-Za-z]) ?", r"\\$"),
        (r"(?<=[0-9]) ?per cent\b", r"\\%"),
        (r"\\(?:pounds|euro)(?![A-Za-z]) ?", lambda m: "£" if "pounds" in m[0] else "€"),
        (r"\bUS ?(?=\\?\$)", ""),
        (r"(?<=[0-9]) ?\"\Z", " inches"),
        (r"(?<=[0-9])(?:\{,\}|\\[, ]|~)(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\big(cup|cap)(?![A-Za-z])", r"\\\1"),
        (r"\\(?:operatorname|mathrm) ?\{(sin|cos|tan|cot|ln|log)\}", r"\1 "),
        (r"(?<![A-Za-z\\])(pi|theta|alpha|beta|sin|cos|tan|cot|ln|log)(?![A-Za-z])", r"\\\1 "),
        (r"(?<=[0-9]) to (?=[0-9])", ":"),
        (r"(?<=[0-9]) ?[xX] ?(?=10 ?\^)", r"\\times "),
        (r"(?<=[)\]}]) ?U ?(?=[(\[]|\\\{)", r"\\cup "),
        (
            r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot) ?\{([0-9]+)\}(?![0-9])",
            lambda m: _repeating(*m.groups()),
        ),
    )
)
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname) ?\{([^{}]*)\}")
_DEGREE = r"(?:\^ ?\{? ?\\circ(?![a-z]) ?\}?|\\degree|\\circ)"
_UNIT = re.compile(
    rf"\s*(?:{_UPRIGHT}\{{(?P<text>[^{{}}]*?)\.?\}}(?: ?\^ ?\{{?(?P<power>-?[1-9])\}}?)?"
    r"|(?:(?<=[0-9)}\]])|(?<=[0-9)}\]] )|(?<=\\pi )) *"
    r"(?P<bare>[A-Za-z]+(?:(?: per |/)[A-Za-z]+)?(?:\^\{?-?[1-9]\}?)?|(?:square|cubic) [a-z]+)"
    rf"|(?P<sign>\\?%|{_DEGREE} ?(?:{_UPRIGHT}\{{ ?)?(?P<scale>[CF]?)(?: ?\}})?))\Z"
)
# Text before or after a formula: words of a conclusion, a currency, the base of a numeral, a.m. or p.m.
_LEAD = re.compile(
    r"(?:.*\b)?(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my|our) )?(?:(?:final|correct|right) )?"
    r"(?:(?:answer|result|solution|option|choice)s?(?: is:?| are:?|:)|option|choice) +(?:\} *)?"
    r"|(?:there |it |the (?:[a-z]+ ){1,3})(?:is|are) (?:exactly )?(?=[-$\\£€0-9])",
    re.I | re.S,
)
_CHINESE_LEAD = re.compile(r"(?:.*[,.\s])?(?:答案|故选|应选|选)[是为选]?[: ]*", re.S)
_LEADING_SIGN = re.compile(r"(?:=|\\approx(?![a-z])|≈) *(?=[^=])")
_CURRENCY = re.compile(r"[-+]? ?(?:\\?([$€£¥])|(USD|EUR|GBP)) ?[-+]?[.0-9]")
_CURRENCY_SIGNS = re.compile(r"(?<![0-9])\\?[$€£¥]|\\?[$€£¥](?![0-9])|\b(?:USD|EUR|GBP) (?=[-+.0-9])")
_DECIMAL_COMMA = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})*,[0-9]{2}")
_BASE = re.compile(r"\(?([0-9A-F]*[0-9][0-9A-F]*)\)? ?_ ?(?:\{? ?([0-9]+) ?\}?|\{? ?\\text ?\{ ?([a-z]+) ?\} ?\}?)")
_BASES = {
    name: str(i) for i, name in enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 2)
}
_HALF_DAY = re.compile(r"([0-9:]+) ?(?:\\text ?\{ ?)?\\?([ap])\.? ?m\.?(?: ?\})?", re.I)
_CHOICE = re.compile(
    r"(?:\\(?:text|textbf|textrm|mathrm|mathbf|mbox) ?\{)?(?:(\([A-J]\))|([A-J])[).:])"
    r"(?: ?\} ?|\\[;, ] ?| |(?=[0-9])|\Z)"
    r"(?!(?:\\text ?\{ *)?(?:is|or|and|not)\b)(?!(?:\(?[A-J]\)?[.,;: ]*)+\Z)[^()]*"
)
_COUNTED = re.compile(r"(?<=[0-9]) +([a-z]{3,})\Z")
_DEGREES = re.compile(r"([0-9.]+) ?\^ ?\{? ?\\circ ?\}?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_INCOMPLETE = re.compile(r"(?<![\^_{])[-+/=*<>?]\Z")  # an operation without its second operand


@dataclasses.dataclass(frozen=True)
class Answer:
    """A formula, or words, and its unit in canonical spelling; "" for no unit.

    letter: the unit as written, if it is one letter next to a numeral, which may be a variable: the t of 5t.
    """

    formula: str
    unit: str
    letter: str = ""


@functools.lru_cache(maxsize=256)  # a group of completions is compared with one expected answer
def read_answer(text: str) -> Answer:
    """The formula and the unit of an answer, without markup and surrounding words that do not change its value."""
    formula = answer_text(text).translate(_CHARACTERS)
    for pattern, to in _MARKUP:
        formula = pattern.sub(to, formula)
    formula = _stripped(formula)
    if match := _LEAD.match(formula) or (re.search("[答选]", formula) and _CHINESE_LEAD.match(formula)):
        formula = formula[match.end() :]
    if match := _LEADING_SIGN.match(formula):
        formula = formula[match.end() :]
    if re.search("[A-Za-z]{3,} ?!+\\Z", formula):  # an exclamation after a word is no factorial
        formula = formula.rstrip("! ")
    # \text around the whole answer, as in \text{east}, does not change it.
    if match := TEXT.fullmatch(formula):
        formula = _stripped(match[1])
    if match := _CHOICE.fullmatch(formula):
        formula = match[1] or f"({match[2]})"
    if _TRIGONOMETRIC.search(formula):
        formula = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", formula)
    formula, unit, letter = _split_unit(formula)
    formula = _COUNTED.sub(r"\\text{ \1}", formula)
    return Answer("" if _INCOMPLETE.search(formula) else re.sub(r"\s+", " ", formula), unit, letter)


def _stripped(text: str) -> str:
    """The text without spaces and punctuation at its ends; dots after a decimal remain."""
    text = text.strip()
    return text if re.search(r"[0-9,] ?\.\.\.\Z", text) else text.rstrip(".,;: \n")


def _split_unit(formula: str) -> tuple[str, str, str]:
    """A formula without its unit, currency, base or half of the day, that unit, and the letter of an Answer."""
    currency = _CURRENCY.match(formula)
    symbol = unit_of(currency[1] or currency[2]) if currency else ""
    formula = _CURRENCY_SIGNS.sub("", formula).strip() if currency else formula
    if parts := read_parts(formula):
        return f"{parts[0].numerator}/{parts[0].denominator}", parts[1], ""
    if match := _BASE.fullmatch(formula):
        base = match[2] or _BASES.get(match[3], "")
        return (match[1], f"base {base}", "") if base else (formula, "", "")
    if match := _HALF_DAY.fullmatch(formula):
        return match[1], f"{match[2].lower()}m", ""
    unit = letter = ""
    if match := _UNIT.search(formula):
        words = match["sign"] or match["bare"] or f"{(match['text'] or '').strip()}{match['power'] or ''}"
        words = {"%": "%", "\\%": "%"}.get(words, f"°{match['scale'] or ''}" if match["sign"] else words)
        words = re.sub(r"[{}]", "", words)
        single = len(match["bare"] or "") == 1  # may be a symbol: the m is a unit in 5m, but not in x m
        if (unit := unit_of(words)) and (not single or read_number(formula[: match.start()])):
            letter = match["bare"] if single and match[0] == match["bare"] else ""
            formula = formula[: match.start()].strip()
        else:
            unit = ""
    if (found := re.search(r" ?([€£¥])\Z", formula)) and not symbol:
        symbol, formula = unit_of(found[1]), formula[: found.start()]
    unit = unit or symbol
    if unit and unit in "$€£" and _DECIMAL_COMMA.fullmatch(formula):
        formula = formula.replace(".", "").replace(",", ".")
    return _CURRENCY_SIGNS.sub("", formula).strip(), unit, letter
