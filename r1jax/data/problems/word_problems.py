"""Sums and differences asked in English or Chinese, directly or as a short word problem."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from r1jax.data.problems import arithmetic
from r1jax.data.problems.problem import LANGUAGES, KeyedProblem, Language, Problem, distinct
from r1jax.errors import UserError

# kind -> language -> operation -> texts
_TEXTS: dict[str, dict[Language, dict[str, tuple[str, ...]]]] = {
    "sum": {
        "en": {"+": ("What is {a} + {b}?",), "-": ("What is {a} - {b}?",)},
        "zh": {"+": ("{a} + {b} 等于多少？",), "-": ("{a} - {b} 等于多少？",)},
    },
    "story": {
        "en": {
            "+": ("Tom has {a} apples and gets {b} more. How many now?", "Ann reads {a} pages, then {b}. How many?"),
            "-": ("Tom has {a} apples and gives {b} away. How many now?", "Ann has {a} pages and reads {b}. How many?"),
        },
        "zh": {
            "+": ("小明有 {a} 个苹果，又得到 {b} 个。现在几个？", "小红读了 {a} 页，又读 {b} 页。一共几页？"),
            "-": ("小明有 {a} 个苹果，送出 {b} 个。现在几个？", "小红有 {a} 页书，读了 {b} 页。还剩几页？"),
        },
    },
}


def generate(digits: int, operations: str, seed: int) -> Iterator[KeyedProblem]:
    """Problems of the kinds "sum" and "story" in both languages, in random order without repeats.

    The results of stories are never negative. Whether a problem is held out depends only on its numbers and operation,
    so a story, its translation, and the sum in it are on the same side.

    digits: digits of each number, 1 to 4; one-digit numbers include 0.
    operations: one or more of "+-".

    Raises:
      UserError: for arguments outside these bounds.
    """
    if not 1 <= digits <= 4:
        raise UserError(f"digits {digits}: word problems need 1 to 4")
    if not operations or set(operations) - set("+-"):
        raise UserError(f"operations {operations!r}: word problems need one or more of '+-'")
    return distinct(_draws(digits, operations, random.Random(seed)))


def _draws(digits: int, operations: str, rng: random.Random) -> Iterator[KeyedProblem]:
    low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
    while True:
        yield word_problem(
            rng, rng.randint(low, high), rng.randint(low, high), rng.choice(operations), rng.choice(LANGUAGES)
        )


def word_problem(rng: random.Random, a: int, b: int, operation: str, language: Language) -> KeyedProblem:
    """A random wording of a + b or a - b, as a sum or as a story."""
    kind = rng.choice(tuple(_TEXTS))
    if kind == "story" and operation == "-":
        a, b = max(a, b), min(a, b)
    question = rng.choice(_TEXTS[kind][language][operation]).format(a=a, b=b)
    answer = str(a + b if operation == "+" else a - b)
    metadata = json.dumps({"a": a, "b": b, "operation": operation})
    return arithmetic.key(f"{a} {operation} {b}"), Problem(question, answer, kind, "number", metadata, language)
