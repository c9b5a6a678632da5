"""The part of a text that is the answer: its last box, or its last formula, without the prose around it."""

from __future__ import annotations

import re

from r1jax.data.text.numbers import unit_of

_BOX = re.compile(r"\\(?:boxed|fbox) ?\{")
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


def answer_text(text: str) -> str:
    """The content of the last box, else the last formula in prose, else the text without formula delimiters.

    Boxes and formulas that only commas, "and" or "or" separate are one answer. A unit that follows belongs to it.
    """
    boxes = _boxes(text)
    if boxes:
        found = _joined(text, boxes)
        return answer_text(found) if _BOX.search(found) else _without_delimiters(found)
    return _without_delimiters(text.rpartition("####")[2])


def _without_delimiters(text: str) -> str:
    """The last formula of prose, or the text without the delimiters of its formulas."""
    formulas = [(m.start(), m.end(), next(filter(None, m.groups()), "")) for m in _FORMULA.finditer(text)]
    if not formulas:
        return text
    outside = _FORMULA.sub("", text)
    if _NO_PROSE.fullmatch(outside):
        return _FORMULA.sub(lambda match: next(filter(None, match.groups()), ""), text)
    return _joined(text, formulas)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of each box that is in no other box; a box that does not end is open to the end."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while match := _BOX.search(text, at):
        end, depth = match.end(), 1
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        found.append((match.start(), end, text[match.end() : end if depth else end - 1]))
        at = end
    return found


def _joined(text: str, parts: list[tuple[int, int, str]]) -> str:
    """The last part, with those before it that belong to the same answer, and the unit after it."""
    first = len(parts) - 1
    while first and _BETWEEN.fullmatch(text, parts[first - 1][1], parts[first][0]):
        first -= 1
    joined = parts[first][2]
    for (_, end, _), (start, _, content) in zip(parts[first:], parts[first + 1 :], strict=False):
        joined += (" or " if re.search(r"\bor\b", text[end:start]) else ", ") + content
    after = _AFTER.fullmatch(text, parts[-1][1])
    unit = re.sub(r"\\(?:text|textrm|mathrm|mbox)|[{}]", "", after[1] or "").strip() if after else ""
    return f"{joined} {after[1]}" if after and (unit_of(unit) or "circ" in unit or unit in (r"\%", "%")) else joined
