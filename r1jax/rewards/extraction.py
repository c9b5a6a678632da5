"""The part of a text that is the answer: its last box, or its last formula, without the prose around it."""

from __future__ import annotations

import re

from r1jax.data.text.boxes import find_boxes
from r1jax.data.text.numbers import unit_of

_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$(?!\s)([^$]*[^$\s\\])\$(?![0-9])|\\\(([^()]*|.*?)\\\)|\\\[(.*?)\\\]", re.S
)
# What may stand between two parts of one answer: "$1$, $2$, and $3$", "\boxed{1} \text{ or } \boxed{2}".
_BETWEEN = re.compile(r"(?:[\s$,;]|\\[()\[\]]|\\q?quad|\\text ?\{ *(?:and|or) *\}|\b(?:and|or)\b)*")
_NO_PROSE = re.compile(r"(?:[^A-Za-z]|\band\b|\bor\b)*")
_UPRIGHT = r"\\(?:text|textrm|mathrm|mbox) ?\{[^{}]*\}"
_AFTER = re.compile(
    rf"[\s$~]*(?:\\[,; )\]])*((?:{_UPRIGHT}|[A-Za-z ]+)?(?:\^\{{?[23]\}}?)?|\\?%|\^?\{{?\\circ\}}?)"
    r"[\s$.]*(?:\\[)\]])?[\s.]*"
)
# Words beside a formula that change what it says.
_CHANGED_BEFORE = re.compile(
    r"\b(not|least|most|than|about|approximately|around|roughly|nearly|almost|over|under|below|above|minus|negative"
    r"|plus|times)[\s*]+\Z",
    re.I,
)
_CHANGED_AFTER = re.compile(
    r"[\s$*]*(?:\\[)\]])?[\s*]*\b(dozen|hundred|thousand|million|billion|trillion|hal(?:f|ves)|thirds?|squared|cubed"
    r"|factorial|or (?:more|less|fewer|greater|higher|lower|so))\b"
)


def answer_text(text: str) -> str:
    """The content of the last box that ends, else the last formula in prose, else the text without formula delimiters.

    Boxes and formulas that only commas, "and" or "or" separate are one answer. A unit that follows belongs to it.
    """
    boxes = find_boxes(text)
    if not boxes:
        return _without_delimiters(text.rpartition("####")[2])
    outer: list[tuple[int, int, str]] = []
    for box in boxes:
        if box.end is not None and (not outer or box.start >= outer[-1][1]):
            outer.append((box.start, box.end + 1, text[box.inside : box.end]))
    if not outer:
        return ""  # a box that does not end may be cut inside its answer
    found = _joined(text, outer)
    return answer_text(found) if find_boxes(found) else _without_delimiters(found)


def _without_delimiters(text: str) -> str:
    """The last formula of prose, or the text without the delimiters of its formulas."""
    formulas = [(m.start(), m.end(), next(filter(None, m.groups()), "")) for m in _FORMULA.finditer(text)]
    if not formulas:
        return text
    outside = _FORMULA.sub("", text)
    if _NO_PROSE.fullmatch(outside):
        return _FORMULA.sub(lambda match: next(filter(None, match.groups()), ""), text)
    before = _CHANGED_BEFORE.search(text, 0, formulas[-1][0])
    return f"{before[1]} {formulas[-1][2]}" if before else _joined(text, formulas)


def _joined(text: str, parts: list[tuple[int, int, str]]) -> str:
    """The last part, with those before it that belong to the same answer, and the unit after it."""
    first = len(parts) - 1
    while first and _BETWEEN.fullmatch(text, parts[first - 1][1], parts[first][0]):
        first -= 1
    joined = parts[first][2]
    for (_, end, _), (start, _, content) in zip(parts[first:], parts[first + 1 :], strict=False):
        joined += (" or " if re.search(r"\bor\b", text[end:start]) else ", ") + content
    if changed := _CHANGED_AFTER.match(text, parts[-1][1]):
        return f"{joined} {changed[1]}"
    after = _AFTER.fullmatch(text, parts[-1][1])
    unit = re.sub(r"\\(?:text|textrm|mathrm|mbox)|[{}]", "", after[1] or "").strip() if after else ""
    return f"{joined} {after[1]}" if after and (unit_of(unit) or "circ" in unit or unit in (r"\%", "%")) else joined
