"""Sums, differences and products of a chosen number of terms and digits."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence

from r1jax.data.problems.problem import HELD_OUT_SHARE, KeyedProblem, Problem, distinct, key_is_held_out
from r1jax.errors import UserError

ENUMERABLE = 100_000  # up to this many possible problems are all listed and shuffled; larger spaces are sampled

_PRODUCT = re.compile(r"([+-]?) *([0-9]+(?: *\* *[0-9]+)*)")
_QUESTION = re.compile(r"[0-9]+(?: *[-+*] *[0-9]+)*")


def generate(digits: int, operations: str, terms: int, seed: int) -> Iterator[KeyedProblem]:
    """Problems such as "37 + 48" in random order without repeats.

    digits: digits of each number, 1 to 6; one-digit numbers include 0.
    operations: one or more of "+-*", with the usual precedence.
    terms: numbers in a problem, 2 to 4.

    Raises:
      UserError: for arguments outside these bounds.
    """
    if not 1 <= digits <= 6:
        raise UserError(f"digits {digits}: arithmetic needs 1 to 6")
    if not 2 <= terms <= 4:
        raise UserError(f"terms {terms}: arithmetic needs 2 to 4 numbers in a problem")
    if not operations or set(operations) - set("+-*"):
        raise UserError(f"operations {operations!r}: arithmetic needs one or more of '+-*'")
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
    """True if a question such as "37 + 48" is in the held-out ``share``.

    Its commuted forms are on the same side, and so is its negative: 3 - 8 goes with 8 - 3.

    Raises:
      ValueError: if the text is not such a question.
    """
    return key_is_held_out(key(question), share)


def key(question: str) -> str:
    """The key that decides whether a question such as "37 + 48" is held out; raises ValueError for any other text."""
    return _key(_signed_products(question))


def _problem(numbers: Sequence[int], signs: Sequence[str]) -> KeyedProblem:
    question = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, numbers[1:], strict=True))
    terms = _signed_products(question)
    value = sum(sign * math.prod(factors) for sign, factors in terms)
    return _key(terms), Problem(question, str(value), "arithmetic")


def _signed_products(question: str) -> list[tuple[int, list[int]]]:
    """The question as a sum of signed products: (sign, factors) for each."""
    if not _QUESTION.fullmatch(question):
        raise ValueError(f"{question!r} is not whole numbers joined by + - *")
    return [
        (-1 if sign == "-" else 1, [int(n) for n in product.split("*")]) for sign, product in _PRODUCT.findall(question)
    ]


def _key(terms: list[tuple[int, list[int]]]) -> str:
    """One key for all orders of terms and factors, and for the negative, since 3 - 8 is worked out as -(8 - 3)."""
    both = [sorted((factor * sign, sorted(factors)) for sign, factors in terms) for factor in (1, -1)]
    return f"arithmetic {max(both)}"
