"""Reading a mathematical answer, in LaTeX or as text, into a formula and a unit."""

from __future__ import annotations

import dataclasses
import re

from r1jax.data.text.numbers import DASHES, POWERS, read_number, unit_of

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys(DASHES, "-"),
        **{"\u00d7": r"\times ", "\u22c5": r"\cdot ", "\u00b7": r"\cdot ", "÷": r"\div ", "π": r"\pi "},
        **{"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "\u222a": r"\cup ", "∩": r"\cap "},
        **{"°": r"^\circ ", "θ": r"\theta ", "β": r"\beta ", "￥": "¥"},
        **{"，": ",", "\uff08": "(", "\uff09": ")", "。": ".", "\u00a0": "~", "\u2009": "~", "\u202f": "~", "`": ""},
        **{char: rf"\frac{{{top}}}{{{below}}}" for char, top, below in ("½12", "⅓13", "⅔23", "¼14", "¾34", "⅛18")},
    }
)


def _repeating(whole: str, fixed: str, repeated: str) -> str:
    """A decimal with repeating digits as a LaTeX fraction."""
    below = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    return rf"\frac{{{int(whole + fixed + repeated) - int('0' + whole + fixed)}}}{{{below}}}"


_MARKUP = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"(?<=[\w)\]}])\*\*(?=[\w({\\-])", "^"),  # a power in Python's notation, not markdown
        (r"\*\*|__", ""),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(POWERS)}}}"),
        (r"√ ?(\w+)", r"\\sqrt{\1}"),
        (r"(?<!\\)\\(?:(?:left|right|displaystyle|bigl|bigr|big|Big)(?![A-Za-z])\.?|!)", ""),
        (r"(?<=[0-9])(?:\{,\}|\\[, ]|~)(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:operatorname|mathrm) ?\{(sin|cos|tan|cot|ln|log)\}", r"\1 "),
        (r"(?<![A-Za-z\\])(pi|theta|alpha|beta|sin|cos|tan|cot|ln|log)(?![A-Za-z])", r"\\\1 "),
        (r"(?<=[0-9]) to (?=[0-9])", ":"),
        (r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|dot) ?\{([0-9]+)\}(?![0-9])", lambda m: _repeating(*m.groups())),
    )
)
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$(?!\s)([^$]*[^$\s\\])\$(?![0-9])|\\\(([^()]*|.*?)\\\)|\\\[(.*?)\\\]", re.S
)
_NO_PROSE = re.compile(r"(?:[^A-Za-z]|\band\b|\bor\b)*")
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname) ?\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?:(?<=[0-9)}\]])|(?<=[0-9)}\]] )) *"
    r"(?:\\(?:text|textrm|mathrm|mbox) ?\{(?P<text>[^{}]*?)\.?\}(?: ?\^ ?\{?(?P<power>-?[1-9])\}?)?"
    r"|(?P<bare>[A-Za-z]+(?:(?: per |/)[A-Za-z]+)?(?:\^\{?-?[1-9]\}?)?)"
    r"|(?P<sign>\\?%|\^ ?\{? ?\\circ ?\}?|\\degree|\\circ))\Z"
)
# Text before or after a formula: words of a conclusion, a currency, the base of a numeral, a.m. or p.m.
_LEAD = re.compile(
    r"(?:(?:so|thus|hence),? )?(?:the )?(?:(?:final|correct) )?(?:answer(?: is:?|:)|option|choice) +", re.I
)
_CURRENCY = re.compile(r"[-+]? ?\\?([$€£¥]) ?[-+]?[.0-9]")
_BASE = re.compile(r"([0-9A-F]*[0-9][0-9A-F]*) ?_ ?\{?([0-9]+)\}?")
_HALF_DAY = re.compile(r"([0-9:]+[0-9]) ?\\?([ap])\.? ?m", re.I)
_CHOICE = re.compile(r"(?:\\text(?:bf|rm)? ?\{)?(\([A-J]\))(?: ?\} ?| )(?!is|or|and|not)[^()]+")
_COUNTED = re.compile(r"(?<=[0-9]) +([a-z]{3,})\Z")
_DEGREES = re.compile(r"([0-9.]+) ?\^ ?\{? ?\\circ ?\}?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_INCOMPLETE = re.compile(r"(?<![\^_{])[-+/=*<>]\Z")  # an operation without its second operand


@dataclasses.dataclass(frozen=True)
class Answer:
    """A formula, or words, and its unit in canonical spelling; "" for no unit."""

    formula: str
    unit: str


def read_answer(text: str) -> Answer:
    """The formula and the unit of an answer, without markup and surrounding words that do not change its value."""
    formula = _inner(text).translate(_CHARACTERS)
    for pattern, to in _MARKUP:
        formula = pattern.sub(to, formula)
    formula = _LEAD.sub("", formula.strip().rstrip(".,;: \n"), count=1)
    # \text around the whole answer, as in \text{east}, does not change it.
    if match := TEXT.fullmatch(formula):
        formula = match[1].strip().rstrip(".")
    if match := _CHOICE.fullmatch(formula):
        formula = match[1]
    if _TRIGONOMETRIC.search(formula):
        formula = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", formula)
    currency = _CURRENCY.match(formula)
    formula, unit = re.sub(r"\\?[$€£¥]", "", formula).strip(), ""
    if match := _BASE.fullmatch(formula):
        formula, unit = match[1], f"base {match[2]}"
    elif match := _HALF_DAY.fullmatch(formula):
        formula, unit = match[1], f"{match[2].lower()}m"
    elif match := _UNIT.search(formula):
        words = match["sign"] or match["bare"] or f"{(match['text'] or '').strip()}{match['power'] or ''}"
        words = {"%": "%", "\\%": "%"}.get(words, "°" if match["sign"] else re.sub(r"[{}]", "", words))
        single = len(match["bare"] or "") == 1  # may be a symbol: the m is a unit in 5m, but not in x m
        if (unit := unit_of(words)) and (not single or read_number(formula[: match.start()])):
            formula = formula[: match.start()].strip()
    formula = _COUNTED.sub(r"\\text{ \1}", formula)
    unit = unit or (unit_of(currency[1]) if currency else "")
    return Answer("" if _INCOMPLETE.search(formula) else re.sub(r"\s+", " ", formula), unit)


def _inner(text: str) -> str:
    """The content of the last box, else the last formula in prose, else the text without formula delimiters."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start >= 0:
        begin = end = text.index("{", start) + 1
        depth = 1
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        return _inner(text[begin : end - 1] if not depth else text[begin:])
    outside = _FORMULA.sub("", text)
    if outside == text:
        return text
    if _NO_PROSE.fullmatch(outside):
        return _FORMULA.sub(_content, text)
    return [_content(match) for match in _FORMULA.finditer(text)][-1]


def _content(match: re.Match[str]) -> str:
    """The formula between the delimiters of a _FORMULA match."""
    return next(filter(None, match.groups()), "")
