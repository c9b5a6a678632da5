"""Families about numbers."""

from __future__ import annotations

import itertools
import math

from r1jax.data.problems.code_families.draws import SMALL, integer, letters
from r1jax.data.problems.code_families.template import Family, Template


def _digits(n: int) -> list[int]:
    return [int(c) for c in str(n)]


def _base(n: int, k: int) -> str:
    found = ""
    while n:
        n, rest = divmod(n, k)
        found = f"{rest}{found}"
    return found or "0"


def _recurrence(n: int, k: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + k * b
    return a


def _collatz(n: int) -> int:
    steps = 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


NUMBERS: dict[str, Family] = {
    "digits": (
        Template(
            "returns the sum of the digits of a non-negative integer, times {k}.",
            "n",
            lambda n, k: k * sum(_digits(n)),
            (integer(0, 9999),),
            range(1, 6),
        ),
        Template(
            "returns the number of times that the digit {k} occurs in a non-negative integer.",
            "n",
            lambda n, k: str(n).count(str(k)),
            (integer(0, 99999),),
            range(0, 10),
        ),
        Template(
            "returns the integer with the digits of a non-negative integer in reverse order.",
            "n",
            lambda n: int(str(n)[::-1]),
            (integer(0, 9999),),
        ),
        Template(
            "returns the largest digit of a non-negative integer minus its smallest digit.",
            "n",
            lambda n: max(_digits(n)) - min(_digits(n)),
            (integer(0, 99999),),
        ),
        Template(
            "returns the sum of the even digits of a non-negative integer.",
            "n",
            lambda n: sum(d for d in _digits(n) if d % 2 == 0),
            (integer(0, 99999),),
        ),
        Template(
            "repeatedly adds the digits of a non-negative integer until one digit remains, and returns it.",
            "n",
            lambda n: 0 if n == 0 else 1 + (n - 1) % 9,
            (integer(0, 99999),),
        ),
    ),
    "divisors": (
        Template(
            "returns the sorted list of all positive divisors of a positive integer.",
            "n",
            lambda n: [d for d in range(1, n + 1) if n % d == 0],
            (integer(1, 120),),
        ),
        Template(
            "returns the number of primes that are at most n.",
            "n",
            lambda n: sum(map(_is_prime, range(n + 1))),
            (integer(0, 120),),
        ),
        Template(
            "returns the smallest prime factor of an integer greater than 1.",
            "n",
            lambda n: next(d for d in range(2, n + 1) if n % d == 0),
            (integer(2, 200),),
        ),
        Template(
            "returns True if the sum of the proper divisors of a positive integer (those below it) is greater "
            "than the integer, else False.",
            "n",
            lambda n: sum(d for d in range(1, n) if n % d == 0) > n,
            (integer(1, 120),),
        ),
        Template(
            "returns the greatest common divisor of two positive integers, plus {k}.",
            "a, b",
            lambda a, b, k: math.gcd(a, b) + k,
            (integer(1, 120), integer(1, 120)),
            range(0, 5),
        ),
        Template(
            "returns the list of the integers from 1 to n that have no common divisor with n except 1.",
            "n",
            lambda n: [i for i in range(1, n + 1) if math.gcd(i, n) == 1],
            (integer(1, 40),),
        ),
    ),
    "bases": (
        Template(
            "returns the digits of a non-negative integer in base {k} as a text, without leading zeros.",
            "n",
            _base,
            (integer(0, 500),),
            range(2, 9),
        ),
        Template(
            "converts a text of digits in base {k} to an integer.",
            "text",
            lambda t, k: int(t or "0", k),
            (letters("01", 1, 8),),
            range(2, 9),
        ),
        Template(
            "returns the number of ones in the binary form of a non-negative integer.",
            "n",
            lambda n: bin(n).count("1"),
            (integer(0, 1000),),
        ),
        Template(
            'returns the text of a non-negative integer with "{w}" between groups of three digits, counted from '
            "the right.",
            "n",
            lambda n, w: f"{n:,}".replace(",", w),
            (integer(0, 10**8),),
            words=("'", "_", " "),
        ),
        Template(
            "returns the value of a text in hexadecimal digits, modulo {k}.",
            "text",
            lambda t, k: int(t, 16) % k,
            (letters("0123456789abcdef", 1, 4),),
            range(5, 12),
        ),
    ),
    "sequences": (
        Template(
            "returns the nth term of a sequence with f(0) = 0, f(1) = 1 and f(n) = {k} * f(n - 1) + f(n - 2).",
            "n",
            _recurrence,
            (integer(0, 15),),
            range(1, 5),
        ),
        Template(
            "counts the steps until n becomes 1, where an even n becomes n // 2 and an odd n becomes 3 * n + 1.",
            "n",
            _collatz,
            (integer(1, 40),),
        ),
        Template(
            "returns the list of the first n multiples of {k} that are not divisible by 4.",
            "n",
            lambda n, k: list(itertools.islice((i for i in itertools.count(k, k) if i % 4), n)),
            (integer(0, 8),),
            (2, 3, 5, 6, 7),
        ),
        Template(
            "returns the sum of the squares of the integers from 1 to n that are divisible by {k}.",
            "n",
            lambda n, k: sum(i * i for i in range(1, n + 1) if i % k == 0),
            (integer(0, 40),),
            SMALL,
        ),
        Template(
            "returns the list of the integers from n down to 1, with each multiple of {k} replaced by 0.",
            "n",
            lambda n, k: [0 if i % k == 0 else i for i in range(n, 0, -1)],
            (integer(0, 12),),
            range(2, 6),
        ),
        Template(
            "returns the smallest power of {k} that is greater than n.",
            "n",
            lambda n, k: next(k**i for i in itertools.count() if k**i > n),
            (integer(0, 500),),
            range(2, 6),
        ),
    ),
    "times": (
        Template(
            'converts a number of seconds to a text of the form "H:MM:SS", with hours as they are and two digits '
            "for minutes and seconds.",
            "seconds",
            lambda n: f"{n // 3600}:{n // 60 % 60:02}:{n % 60:02}",
            (integer(0, 20000),),
        ),
        Template(
            "returns True if a year is a leap year in the Gregorian calendar, else False.",
            "year",
            lambda n: n % 4 == 0 and (n % 100 != 0 or n % 400 == 0),
            (lambda rng: rng.choice([rng.randint(1890, 2030), 1900, 2000, 2100, 1600]),),
        ),
        Template(
            "returns the number of integers that are in both closed intervals [a, b] and [c, d], with a <= b and "
            "c <= d.",
            "a, b, c, d",
            lambda a, b, c, d: max(0, min(b, d) - max(a, c) + 1),
            (integer(0, 9), integer(10, 19), integer(5, 14), integer(15, 25)),
        ),
        Template(
            'adds {k} minutes to a time such as "23:50" and returns the time in the same form; midnight is "00:00".',
            "time",
            lambda t, k: f"{(m := (60 * int(t[:2]) + int(t[3:]) + k) % 1440) // 60:02}:{m % 60:02}",
            (lambda rng: f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}",),
            (15, 25, 40, 75, 90),
        ),
    ),
}
