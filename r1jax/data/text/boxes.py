r"""The contents of ``\boxed{}`` in a text."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BRACE = re.compile(r"(?<!\\)[{}]")


def boxed(text: str) -> list[str | None]:
    r"""The content of each ``\boxed{}`` or ``\fbox{}``, stripped, in the order in which they open.

    None for a box whose braces are not balanced. A box inside another one has its own place in the list.
    """
    places = {match.end(): number for number, match in enumerate(_BOX.finditer(text))}
    found: list[str | None] = [None] * len(places)
    opened: list[int] = []
    for brace in _BRACE.finditer(text) if places else ():  # one pass: completions may have many open boxes
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened and (start := opened.pop()) in places:
            found[places[start]] = text[start + 1 : brace.start()].strip()
    return found
