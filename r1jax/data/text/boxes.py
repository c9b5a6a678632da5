r"""The contents of ``\boxed{}`` in a text."""

from __future__ import annotations

import dataclasses
import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BRACE = re.compile(r"(?<!\\)[{}]")


def boxed(text: str) -> list[str | None]:
    r"""The content of each ``\boxed{}`` or ``\fbox{}``, stripped, in the order in which they open.

    None for a box whose braces are not balanced. A box inside another one has its own place in the list.
    """
    return [None if box.end is None else text[box.inside : box.end].strip() for box in find_boxes(text)]


@dataclasses.dataclass(frozen=True)
class Box:
    """The positions of a box's command, of its content and of its closing brace; end is None without that brace."""

    start: int
    inside: int
    end: int | None


def find_boxes(text: str) -> list[Box]:
    r"""Each ``\boxed{}`` or ``\fbox{}`` in the order in which they open."""
    opening = {match.end(): match.start() for match in _BOX.finditer(text)}
    ends: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text) if opening else ():  # one pass: completions may have many open boxes
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            ends[opened.pop()] = brace.start()
    return [Box(start, inside + 1, ends.get(inside)) for inside, start in opening.items()]
