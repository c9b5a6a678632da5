"""Sums, differences and products, graded by the digits and the count of their numbers."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence

from r1jax.data.problems.problem import HELD_OUT_SHARE, KeyedProblem, Problem, distinct, key_is_held_out
from r1jax.errors import UserError

ENUMERABLE = 100_000  # spaces up to this many problems are listed whole, larger ones are sampled

_PRODUCT = re.compile(r"([+-]?) *([0-9]+(?: *\* *[0-9]+)*)")
_QUESTION = re.compile(r"[0-9]+(?: *[-+*] *[0-9]+)*")


def generate(digits: int, operations: str, terms: int, seed: int) -> Iterator[KeyedProblem]:
    """Problems such as "37 + 48" in random order without repeats.

    digits: of each number, 1 to 6; one digit includes 0.
    operations: some of "+-*"; products go first, as usual.
    terms: numbers in a problem, 2 to 4.

    Raises:
      UserError: for a grade outside these bounds.
    """
    if not 1 <= digits <= 6:
        raise UserError(f"digits {digits}: arithmetic has 1 to 6")
    if not 2 <= terms <= 4:
        raise UserError(f"terms {terms}: arithmetic has 2 to 4 numbers in a problem")
    if not operations or set(operations) - set("+-*"):
        raise UserError(f"operations {operations!r}: arithmetic has some of '+-*'")
    rng = random.Random(seed)
    choices = sorted(set(operations))
    numbers = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
    if len(numbers) ** terms * len(choices) ** (terms - 1) <= ENUMERABLE:
        all_numbers, all_signs = itertools.product(numbers, repeat=terms), itertools.product(choices, repeat=terms - 1)
        space = list(itertools.product(all_numbers, all_signs))
        rng.shuffle(space)
        return (_problem(values, signs) for values, signs in space)
    draws = ((rng.choices(numbers, k=terms), rng.choices(choices, k=terms - 1)) for _ in itertools.count())
    return distinct(_problem(values, signs) for values, signs in draws)


def is_held_out(question: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a question such as "37 + 48" belongs to the held-out ``share``.

    Its commuted forms do so too, and the same with every sign turned.

    Raises:
      ValueError: for a text that is not such a question.
    """
    return key_is_held_out(key(question), share)


def key(question: str) -> str:
    """The text that decides which side a question such as "37 + 48" is on; raises ValueError for another text."""
    return _key(_sum(question))


def _problem(numbers: Sequence[int], signs: Sequence[str]) -> KeyedProblem:
    question = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, numbers[1:], strict=True))
    terms = _sum(question)
    value = sum(sign * math.prod(factors) for sign, factors in terms)
    return _key(terms), Problem(question, str(value), "arithmetic")


def _sum(question: str) -> list[tuple[int, list[int]]]:
    """The question as a sum of signed products: (sign, factors) of each."""
    if not _QUESTION.fullmatch(question):
        raise ValueError(f"{question!r} is not whole numbers joined by + - *")
    return [
        (-1 if sign == "-" else 1, [int(n) for n in product.split("*")]) for sign, product in _PRODUCT.findall(question)
    ]


def _key(terms: list[tuple[int, list[int]]]) -> str:
    """One text for all orders of the terms and of their factors, and for the negative: 3 - 8 is worked as 8 - 3."""
    both = [sorted((turn * sign, sorted(factors)) for sign, factors in terms) for turn in (1, -1)]
    return f"arithmetic {max(both)}"
