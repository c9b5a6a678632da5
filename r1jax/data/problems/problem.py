"""What a problem is, and which problems are held out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

Checker = Literal["number", "math", "exact", "contains", "countdown", "gym"]

HELD_OUT_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with its answer.

    ``kind`` groups metrics; ``checker`` names the rule that judges answers (r1jax.rewards.checkers); ``metadata`` is
    what that rule needs besides the answer, as JSON; ``language`` is that of the question, where it was made to be in
    one, and else "".
    """

    question: str
    answer: str
    kind: str
    checker: Checker = "number"
    metadata: str = ""
    language: str = ""


# A problem and the text that stands for it and for every other form of it: all forms fall on the same side.
KeyedProblem = tuple[str, Problem]


def key_is_held_out(key: str, share: float) -> bool:
    """True for about ``share`` of all keys, blake2b(key) < 2^64 share: the same in every run and on every machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def distinct(problems: Iterable[KeyedProblem], patience: int = 500) -> Iterator[KeyedProblem]:
    """The problems without repeated questions; ends after ``patience`` repeats in a row, with the space used up."""
    seen: set[str] = set()
    repeats = 0
    for key, problem in problems:
        if problem.question in seen:
            repeats += 1
            if repeats == patience:
                return
            continue
        seen.add(problem.question)
        repeats = 0
        yield key, problem
