"""How each model looks in every picture: one table, by the name of the stage that makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour, line and marker of a model's curve; its bar has the colour too."""

    colour: str
    line: str = "-"
    marker: str = "o"


# The first seven are those of Okabe and Ito (2008) but for yellow, the others were searched for: with each of the three
# kinds of colour blindness any two are at least 15 apart in CIELAB. Students have dashed lines.
LOOKS: Mapping[str, Look] = {
    "base": Look("#24292f", marker="o"),
    "zero": Look("#d55e00", marker="s"),
    "cold_start": Look("#56b4e9", marker="^"),
    "reasoning_rl": Look("#0072b2", marker="D"),
    "reasoning_rl_no_language": Look("#cc79a7", marker="v"),
    "sft": Look("#e69f00", marker="P"),
    "r1": Look("#009e73", marker="X"),
    "student": Look("#5a2d00", "--", "o"),
    "distilled": Look("#8700ff", "--", "s"),
    "matched": Look("#4b2db4", "--", "^"),
    "student_rl": Look("#94c465", "--", "D"),
}
_REPEATED = (":", "-.")  # lines of a model's second and third form, such as two students of one teacher


def looks(models: Sequence[str]) -> list[Look]:
    """The looks of a picture's models, by their names in LOOKS; other names take unused colours in their order."""
    unused = [look for name, look in LOOKS.items() if name not in models] or list(LOOKS.values())
    others = [name for name in dict.fromkeys(models) if name not in LOOKS]
    known = {**LOOKS, **{name: unused[i % len(unused)] for i, name in enumerate(others)}}
    found = []
    for at, name in enumerate(models):
        before = models[:at].count(name)
        line = _REPEATED[(before - 1) % len(_REPEATED)] if before else known[name].line
        found.append(dataclasses.replace(known[name], line=line))
    return found
