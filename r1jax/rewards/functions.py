"""Operations and functions of numbers: exact on fractions where possible, else by mpmath.

No number of more than MAX_BITS is computed, so that the time is bounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_BITS = 70_000
_MAX_FACTORIAL = 5000


class UndefinedError(Exception):
    """An expression has no value at a point, as 1/0."""


class TooLargeError(Exception):
    """A value is too large to be computed."""


def numeric(value: Any) -> Any:
    """A Fraction as an mpmath number of the current precision; other numbers unchanged."""
    import mpmath

    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if base == 0:
        if exponent <= 0:
            raise UndefinedError
        return base
    if exponent.denominator != 1:
        return _exact_root(base, exponent)
    bits = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and bits * abs(exponent) > MAX_BITS:
        raise TooLargeError
    return base ** (int(exponent) % 2 if abs(base) == 1 else int(exponent))


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """The square root of a square; None for other roots, which are not computed exactly."""
    if exponent.denominator != 2 or base < 0:
        return None
    roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
    if roots[0] ** 2 != base.numerator or roots[1] ** 2 != base.denominator:
        return None
    return _power(Fraction(*roots), Fraction(exponent.numerator))


def _divide(above: Fraction, below: Fraction) -> Fraction:
    if below == 0:
        raise UndefinedError
    return _bounded(above / below)


def _factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1:
        return None
    if n > _MAX_FACTORIAL:
        raise TooLargeError
    if n < 0:
        raise UndefinedError
    return Fraction(math.factorial(int(n)))


def _double_factorial(n: Fraction) -> Fraction | None:
    """The product of n, n - 2, n - 4 and so on, down to 1 or 2."""
    if n.denominator != 1 or n < 0:
        return None
    if n > _MAX_FACTORIAL:
        raise TooLargeError
    return Fraction(math.prod(range(int(n), 0, -2)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return None
    if n > _MAX_FACTORIAL:
        raise TooLargeError
    return Fraction(math.comb(int(n), int(k)))


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLargeError
    return value


def _integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of_integers(*values: Fraction) -> Fraction | None:
        return None if any(v.denominator != 1 for v in values) else Fraction(function(*map(int, values)))

    return of_integers


EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": lambda *values: functools.reduce(lambda a, b: _bounded(a + b), values),
    "*": lambda *values: functools.reduce(lambda a, b: _bounded(a * b), values),
    "/": _divide,
    "neg": lambda value: -value,
    "^": _power,
    "root": lambda value, degree: _exact_root(value, _divide(Fraction(1), degree)) if degree > 1 else None,
    "abs": lambda value: abs(value),
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "factorial": _factorial,
    "double factorial": _double_factorial,
    "binom": _binomial,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
}


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Numeric functions by name, some of which mpmath has under other names."""
    import mpmath

    def root(value: Any, degree: Any) -> Any:
        odd = degree == mpmath.floor(degree.real) and int(degree.real) % 2
        negative = value.imag == 0 and value.real < 0
        return -mpmath.power(-value, 1 / degree) if odd and negative else mpmath.power(value, 1 / degree)

    names = ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "floor", "ceil"]
    return {
        **{name: getattr(mpmath, name) for name in names},
        **{f"arc{name}": getattr(mpmath, f"a{name}") for name in ("sin", "cos", "tan")},
        "+": lambda *values: sum(values, mpmath.mpf(0)),
        "*": lambda *values: math.prod(values, start=mpmath.mpf(1)),
        "/": lambda above, below: above / below,
        "neg": lambda value: -value,
        "^": mpmath.power,
        "root": root,
        "abs": abs,
        "log": lambda value, base: mpmath.log(value) / mpmath.log(base),
        "factorial": mpmath.factorial,
        "double factorial": mpmath.fac2,
        "binom": mpmath.binomial,
        "max": max,
        "min": min,
    }


def numeric_result(name: str, values: list[Any]) -> Any:
    """A function of mpmath numbers, if its result is not too large."""
    import mpmath

    if name.startswith("call "):
        # An unknown function: a smooth function that no other name has.
        seed = sum((i + 2) * ord(char) for i, char in enumerate(name))
        return mpmath.fsum(mpmath.sin(v * (seed + 3 * i) / 7 + seed % 5) for i, v in enumerate(values)) + seed
    if name not in _functions():
        raise UndefinedError
    if any(map(mpmath.isinf, values)):
        if name in ("+", "neg", "*"):
            return _functions()[name](*values)
        raise UndefinedError
    if name in ("^", "exp"):
        base, exponent = (values[0], values[1]) if name == "^" else (mpmath.e * 1, values[0])
        if base and abs(exponent) * (abs(mpmath.log(base)) + 1) > MAX_BITS:
            raise TooLargeError
    elif (
        name in ("factorial", "double factorial", "binom", "sinh", "cosh", "tanh")
        and max(map(abs, values)) > _MAX_FACTORIAL
    ):
        raise TooLargeError
    return _functions()[name](*values)
