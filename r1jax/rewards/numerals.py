"""One notation for numerals: fractions, mixed numbers, thousands separators, and brackets of intervals."""

from __future__ import annotations

import re

# Fractions in one form, mixed numbers, and thousands, whose separators also stand between the members of a list.
_FRACTIONS = (
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac ?([0-9]) ?([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac ?([0-9]) ?\{"), r"\\frac{\1}{"),
    (re.compile(r"(?<![0-9.,^_}A-Za-z/])([0-9]+) +([0-9]+) ?/ ?([0-9]+)(?![0-9.])"), r"\1\\frac{\2}{\3}"),
)
_MIXED = re.compile(r"(?<![0-9.,^_}A-Za-z/])([0-9]+) ?\\frac ?\{([0-9]+)\} ?\{([0-9]+)\}(?! ?[\^!0-9])")
_TIGHT = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_DOTTED = re.compile(
    r"(?<![0-9.,])[1-9][0-9]{0,2}(?:(?:\.[0-9]{3}){2,}(?:,[0-9]+)?|(?:\.[0-9]{3})+,[0-9]{2})(?![0-9.,])"
)
_SPACED = re.compile(r"[-+]?[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]+)?")
_REVERSED = re.compile(r"([\[\]])([^\[\]();]+[,;][^\[\](),;]+)([\[\]])")
_CASES = re.compile(r"\\(?:begin|end) ?\{(?:cases|aligned)\}")
_SYSTEM = re.compile(r"\\\{ ?\\begin ?\{array\} ?\{[lcr]+\}(.*)\\end ?\{array\}(?! ?\\\})")  # an open brace


def canonical_numerals(text: str) -> str:
    """The text with mixed numbers as sums and without thousands separators."""
    if _SPACED.fullmatch(text):
        return text.replace(" ", "")
    for pattern, to in _FRACTIONS:
        text = pattern.sub(to, text)
    text = _MIXED.sub(_sum_of_parts, text)
    text = _DOTTED.sub(lambda match: match[0].replace(".", "").replace(",", "."), text)
    text = _REVERSED.sub(_usual_brackets, _SYSTEM.sub(r"\1", _CASES.sub("", text)))
    spaced = re.search(r", |;", text) is not None

    def without_commas(match: re.Match[str]) -> str:
        before = re.sub(r"\\[{}]", lambda brace: "[" if brace[0] == r"\{" else "]", text[: match.start()])
        depth = sum((char in "([") - (char in ")]") for char in before)
        return match[0].replace(",", "") if spaced or depth == 0 else match[0]

    return _TIGHT.sub(without_commas, text)


def _usual_brackets(match: re.Match[str]) -> str:
    """The interval ]a, b[ as (a, b)."""
    return ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")")


def _sum_of_parts(match: re.Match[str]) -> str:
    """A mixed number as a sum in parentheses; unchanged if the fraction is improper."""
    proper = int(match[2]) < int(match[3]) if max(map(len, match.groups())) < 1000 else False
    return rf"({match[1]}+\frac{{{match[2]}}}{{{match[3]}}})" if proper else match[0]
