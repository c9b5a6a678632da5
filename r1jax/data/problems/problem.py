"""Problems with their answers, and the split into training and held-out problems."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

Checker = Literal["number", "math", "exact", "contains", "countdown", "gym", "code"]
Language = Literal["en", "zh"]  # languages of the generated questions
LANGUAGES: tuple[Language, ...] = ("en", "zh")

HELD_OUT_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with its answer.

    kind: the name under which metrics are grouped.
    checker: the rule that judges answers (r1jax.rewards.checkers).
    metadata: what the checker needs besides the answer, as JSON.
    language: the language of the question, such as "en"; "" if the source does not state one.
    """

    question: str
    answer: str
    kind: str
    checker: Checker = "number"
    metadata: str = ""
    language: str = ""


# A problem with a key. All forms of one problem, such as 3 + 8 and 8 + 3, have the same key, so they are all held out
# or all trained on.
KeyedProblem = tuple[str, Problem]


def key_is_held_out(key: str, share: float) -> bool:
    """True for about ``share`` of all keys: blake2b(key) < share * 2^64. Independent of machine and seed."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def question_key(question: str) -> str:
    """The key of a question of a file: its text without white space at its ends, with one form of line breaks."""
    return question.replace("\r\n", "\n").strip()


def distinct(problems: Iterable[KeyedProblem], patience: int = 500) -> Iterator[KeyedProblem]:
    """The problems without repeated questions; stops after ``patience`` repeats in a row, when few new ones remain."""
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
