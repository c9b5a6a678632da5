"""Pairs of answers with their right verdicts, read from the files in tests/rewards/cases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

FOLDER = Path(__file__).parent / "cases"
FILES = ("table", "more", "fresh", "held_out", "datasets", "probes", "unseen")


@dataclasses.dataclass(frozen=True)
class Case:
    """An expected and a given answer, their truths as table.txt explains them, and whether they are equal."""

    category: str
    expected: str
    expected_truth: str
    given: str
    given_truth: str
    equal: bool

    @property
    def name(self) -> str:
        """A short text for messages."""
        return f"{self.category}: {self.expected!r} {'=' if self.equal else '!='} {self.given!r}"


def read_cases(name: str) -> list[Case]:
    """The cases of one of FILES, in their order."""
    cases: list[Case] = []
    category = expected = truth = ""
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("@ "):
            category = line[2:]
            continue
        text, found, its_truth = line.rpartition(";;")
        if not found:
            raise ValueError(f"{name}.txt: no ';;' in {line!r}")
        sign, given = text[:2], text[2:].strip()
        if sign in ("+ ", "- "):
            cases.append(Case(category, expected, truth, given, its_truth.strip(), sign == "+ "))
        else:
            expected, truth = text.strip(), its_truth.strip()
    return cases
