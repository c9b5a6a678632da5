"""Countdown: reach a target from given numbers, each used at most once."""

from __future__ import annotations

import json
import operator
import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from r1jax.data.problems.problem import KeyedProblem, Problem, distinct
from r1jax.errors import UserError

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")
_SPELLINGS = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"})
_LONGEST = 200  # characters of an expression; also bounds how deep the parser goes
_ATTEMPTS = 1000  # draws in a row without a target, after which the grade counts as impossible


def generate(digits: int, operations: str, terms: int, seed: int) -> Iterator[KeyedProblem]:
    """Problems that have a solution with all their numbers, in random order without repeats.

    digits: of the largest number, 1 to 3; targets have at most one digit more.
    operations: some of "+-*/".
    terms: numbers in a problem, 2 to 6.

    Raises:
      UserError: for a grade outside these bounds.
    """
    if not 1 <= digits <= 3:
        raise UserError(f"digits {digits}: countdown has 1 to 3")
    if not 2 <= terms <= 6:
        raise UserError(f"terms {terms}: countdown has 2 to 6 numbers in a problem")
    if not operations or set(operations) - set(_OPERATIONS):
        raise UserError(f"operations {operations!r}: countdown has some of '+-*/'")
    return distinct(_draws(digits, operations, terms, random.Random(seed)))


def solves(expression: str, numbers: list[int], target: int, operations: str = "+-*/") -> bool:
    """Whether an expression has the target as its exact value and uses each number at most once.

    It may hold whole numbers, the four operations and parentheses, nothing else; no code is evaluated.
    """
    try:
        tokens = _tokens(expression)
        value = _evaluate(tokens)
    except (ValueError, ZeroDivisionError):
        return False
    used = Counter(int(token) for token in tokens if token.isdigit())
    allowed = set(operations) | set("()")
    return value == target and used <= Counter(numbers) and all(t in allowed for t in tokens if not t.isdigit())


def value(expression: str) -> Fraction | None:
    """The exact value of an expression, whatever numbers it uses; None where it is none."""
    try:
        return _evaluate(_tokens(expression))
    except (ValueError, ZeroDivisionError):
        return None


def _draws(digits: int, operations: str, terms: int, rng: random.Random) -> Iterator[KeyedProblem]:
    choices = "".join(sign for sign in _OPERATIONS if sign in operations)
    failed = 0
    while failed < _ATTEMPTS:
        numbers = [rng.randint(1, 10**digits - 1) for _ in range(terms)]
        solution, target = _combine(numbers, choices, rng)
        if target is None or target in numbers or target >= 10 ** (digits + 1):
            failed += 1
            continue
        failed = 0
        listed = ", ".join(map(str, numbers))
        question = f"Make {target} from the numbers {listed} with {' '.join(choices)}, using each number at most once."
        metadata = json.dumps({"numbers": numbers, "target": target, "operations": choices})
        yield (f"countdown {sorted(numbers)} {target}", Problem(question, solution, "countdown", "countdown", metadata))


def _combine(numbers: list[int], operations: str, rng: random.Random) -> tuple[str, int | None]:
    """A random expression of all the numbers whose every step is a whole number above 0, else a value of None."""
    pool = [(str(n), n) for n in numbers]
    while len(pool) > 1:
        rng.shuffle(pool)
        (left, a), (right, b) = pool.pop(), pool.pop()
        sign = rng.choice(operations)
        if (sign == "-" and a <= b) or (sign == "/" and a % b):
            return "", None
        value = a // b if sign == "/" else _OPERATIONS[sign](a, b)
        pool.append((f"({left} {sign} {right})", value))
    expression, value = pool[0]
    return expression[1:-1], value


def _tokens(expression: str) -> list[str]:
    text = expression.translate(_SPELLINGS).strip()
    if len(text) > _LONGEST:
        raise ValueError("too long")
    tokens, end = [], 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"unexpected {text[end]!r}")
        tokens.append(match[1])
        end = match.end()
    return tokens


def _evaluate(tokens: list[str]) -> Fraction:
    """Recursive descent: a sum of products of atoms, where an atom is a number or a sum in parentheses."""
    rest = tokens[::-1]

    def total() -> Fraction:
        value = product()
        while rest and rest[-1] in "+-":
            value = _OPERATIONS[rest.pop()](value, product())
        return value

    def product() -> Fraction:
        value = atom()
        while rest and rest[-1] in "*/":
            value = _OPERATIONS[rest.pop()](value, atom())
        return value

    def atom() -> Fraction:
        token = rest.pop() if rest else "the end"
        if token.isdigit():
            return Fraction(token)
        if token != "(":
            raise ValueError(f"unexpected {token}")
        value = total()
        if not rest or rest.pop() != ")":
            raise ValueError("a parenthesis stays open")
        return value

    value = total()
    if rest:
        raise ValueError(f"unexpected {rest[-1]}")
    return value
