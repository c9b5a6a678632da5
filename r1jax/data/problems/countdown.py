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
_LONGEST = 200  # characters of an expression; this also bounds the recursion of the parser
_ATTEMPTS = 1000  # failed attempts in a row after which the generator stops


def generate(digits: int, operations: str, terms: int, seed: int) -> Iterator[KeyedProblem]:
    """Problems with a solution that uses all their numbers, in random order without repeats.

    digits: digits of the largest number, 1 to 3; targets have at most one digit more.
    operations: one or more of "+-*/".
    terms: numbers in a problem, 2 to 6.

    Raises:
      UserError: for arguments outside these bounds.
    """
    if not 1 <= digits <= 3:
        raise UserError(f"digits {digits}: countdown needs 1 to 3")
    if not 2 <= terms <= 6:
        raise UserError(f"terms {terms}: countdown needs 2 to 6 numbers in a problem")
    if not operations or set(operations) - set(_OPERATIONS):
        raise UserError(f"operations {operations!r}: countdown needs one or more of '+-*/'")
    return distinct(_draws(digits, operations, terms, random.Random(seed)))


def solves(expression: str, numbers: list[int], target: int, operations: str = "+-*/") -> bool:
    """True if an expression is exactly equal to the target and uses each number at most once.

    It may contain only whole numbers, the four operations and parentheses. No code is executed.
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
    """The exact value of an expression with any numbers; None if it is not an expression or divides by zero."""
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
    """A random expression of all numbers, and its value; the value is None if a step is not a whole number above 0."""
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
    """Evaluates by recursive descent: a sum of products of atoms; an atom is a number or a sum in parentheses."""
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
        token = rest.pop() if rest else "end"
        if token.isdigit():
            return Fraction(token)
        if token != "(":
            raise ValueError(f"unexpected {token}")
        value = total()
        if not rest or rest.pop() != ")":
            raise ValueError("unclosed parenthesis")
        return value

    value = total()
    if rest:
        raise ValueError(f"unexpected {rest[-1]}")
    return value
