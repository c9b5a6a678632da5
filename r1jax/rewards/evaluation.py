"""Equality of expressions by value: exact fractions where possible, else at least 50 digits, at several points.

No number of more than _MAX_BITS is computed, so that the time is bounded: larger ones, such as 9^{9^9}, are equal only
if they are the same power, product or factorial.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from r1jax.rewards.values import INFINITY, PI, Apply, E, Expr, I, Number, Symbol, symbols

_MAX_BITS = 70_000  # of an exact number
_MAX_FACTORIAL = 5000
_DIGITS = 50  # compared beyond the span from the largest to the smallest intermediate value
_MAX_SPAN = 2500  # digits; a wider span is not evaluated
_SPARE = 20  # last digits that rounding may change
_SHIFT = 40  # further digits of the second evaluation, which tells zero from a tiny value
_PLACES = 6  # digits after the point, and significant digits, from which a decimal may stand for another value


class UndefinedError(Exception):
    """An expression has no value at a point, as 1/0."""


class TooLargeError(Exception):
    """A value is too large to be computed."""


def same_value(one: Expr, other: Expr) -> bool | None:
    """True if two expressions are equal wherever both are defined; None if they are defined together nowhere.

    A decimal with at least six places and six significant digits is equal to the values that it rounds.
    """
    one, other = canonical(one), canonical(other)
    if one == other and not (isinstance(one, Number) and one.cut):
        return True
    if isinstance(one, Number) and isinstance(other, Number) and not (one.cut or other.cut):
        return one.value == other.value or _rounds(one, other.value) or _rounds(other, one.value)
    names = sorted(symbols(one) | symbols(other))
    compared = 0
    try:
        for point in _points(names):
            verdict = _same_at(one, other, point)
            if verdict is False:
                return False
            compared += verdict is True
    except TooLargeError:
        return False
    return True if compared else None


def number(expression: Expr) -> Any:
    """The real value of an expression without variables, an mpmath number of 50 digits; None without one."""
    import mpmath

    if symbols(expression):
        return None
    try:
        value = real(evaluate(expression, {}, _DIGITS))
    except (UndefinedError, TooLargeError):
        return None
    with mpmath.workdps(_DIGITS):
        return None if value is None else _numeric(value)


def real(value: Any) -> Any:
    """A real number as such; None for another complex number."""
    if isinstance(value, Fraction):
        return value
    return value.real if abs(value.imag) <= abs(value) * 1e-30 else None


def _points(names: list[str]) -> list[dict[str, Fraction]]:
    """Values of the variables: small, larger, and of both signs; all multiples of unusual fractions."""
    if not names:
        return [{}]
    starts = ((Fraction(3, 17), Fraction(2, 23)), (Fraction(31, 13), Fraction(7, 11)), (Fraction(-19, 7), Fraction(9, 8)))
    points = [{name: start + i * step for i, name in enumerate(names)} for start, step in starts]
    return [*points, {name: Fraction(5 + 2 * i, -9 if i % 2 else 9) * Fraction(17, 8) for i, name in enumerate(names)}]


def _same_at(one: Expr, other: Expr, point: Mapping[str, Fraction]) -> bool | None:
    """True if two expressions have one value at a point; None if one is undefined there, or only one is real."""
    import mpmath

    spans: list[float] = []
    try:
        pair = [evaluate(each, point, _DIGITS, spans) for each in (one, other)]
        if all(isinstance(value, Fraction) for value in pair):
            return pair[0] == pair[1] or any(_rounds(*each) for each in ((one, pair[1]), (other, pair[0])))
        if any(not isinstance(value, Fraction) and mpmath.isinf(value) for value in pair):
            return pair[0] == pair[1]
        digits = _DIGITS + int(max(spans, default=0) - min(spans, default=0))
        if digits > _DIGITS + _MAX_SPAN:
            raise TooLargeError
        first, second = ([evaluate(each, point, digits + more) for each in (one, other)] for more in (0, _SHIFT))
    except UndefinedError:
        return None
    kinds = [real(value) is not None for value in second]
    if point and kinds[0] != kinds[1]:
        return None
    with mpmath.workdps(digits + _SHIFT + 10):
        gaps = [abs(_numeric(a) - _numeric(b)) for a, b in (first, second)]
        size = max(abs(_numeric(value)) for value in second)
        last = mpmath.mpf(10) ** (_SPARE - digits - _SHIFT)
        vanishes = gaps[1] <= gaps[0] * mpmath.mpf(10) ** (-_SHIFT // 2)
        if gaps[1] <= size * last or (vanishes and gaps[1] <= last * mpmath.mpf(10) ** max(0.0, *spans)):
            return True
        return any(
            value is not None and _rounds(each, value)
            for each, value in ((one, real(second[1])), (other, real(second[0])))
        )


def _rounds(decimal: Expr, value: Any) -> bool:
    """True if a numeral with enough digits is the decimal to which a value is rounded, or, with dots, cut."""
    import mpmath

    if not isinstance(decimal, Number) or decimal.decimals is None or decimal.decimals < _PLACES:
        return False
    if abs(decimal.value) * 10**decimal.decimals < 10 ** (_PLACES - 1):
        return False
    if isinstance(value, Fraction) and not _repeats(value):
        return False
    with mpmath.workdps(2 * _DIGITS):
        steps = abs(_numeric(value) - _numeric(decimal.value)) * mpmath.mpf(10) ** decimal.decimals
        if decimal.cut:
            return steps < 1 and abs(_numeric(value)) >= abs(_numeric(decimal.value))
        return steps <= mpmath.mpf("0.5")


def _repeats(value: Fraction) -> bool:
    """True if the decimal digits of a fraction never end, as those of 1/3."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1


def canonical(expression: Expr) -> Expr:
    """The expression with exact parts computed, sums and products in one order, and without double signs."""
    if not isinstance(expression, Apply):
        return expression
    args = tuple(map(canonical, expression.args))
    if expression.name in _EXACT and all(isinstance(part, Number) for part in args):
        try:
            value = _EXACT[expression.name](*(part.value for part in args))  # pyright: ignore[reportAttributeAccessIssue]
        except (UndefinedError, TooLargeError):
            value = None
        if value is not None:
            return Number(value)
    if expression.name in ("+", "*"):
        flat = [each for part in args for each in _members(part, expression.name)]
        return Apply(expression.name, tuple(sorted(flat, key=hash)))
    return Apply(expression.name, args)


def _members(part: Expr, name: str) -> tuple[Expr, ...]:
    return part.args if isinstance(part, Apply) and part.name == name else (part,)


def evaluate(expression: Expr, point: Mapping[str, Fraction], digits: int, spans: list[float] | None = None) -> Any:
    """The value at a point: a Fraction if it is exact, else a complex mpmath number of so many digits.

    spans: a list that collects the powers of ten of all values which are not exact.

    Raises:
      UndefinedError: if there is no value.
      TooLargeError: if a value has too many digits.
    """
    import mpmath

    try:
        with mpmath.workdps(digits + 10):
            return _value(expression, point, spans if spans is not None else [])
    except (ValueError, ArithmeticError, TypeError, mpmath.libmp.NoConvergence) as error:
        raise UndefinedError from error


def _value(expression: Expr, point: Mapping[str, Fraction], spans: list[float]) -> Any:
    import mpmath

    match expression:
        case Number(value):
            _measure(value, spans)
            return value
        case Symbol():
            if expression in (PI, E, I, INFINITY):
                return {PI: mpmath.pi, E: mpmath.e, I: mpmath.mpc(0, 1), INFINITY: mpmath.inf}[expression] * 1
            return point[expression.name]
        case Apply(name, args):
            values = [_value(part, point, spans) for part in args]
    result = None
    if name in _EXACT and all(isinstance(value, Fraction) for value in values):
        result = _EXACT[name](*values)
    if result is None:
        result = _numeric_result(name, [_numeric(value) for value in values])
        if mpmath.isnan(result):
            raise UndefinedError
    _measure(result, spans)
    return result


def _measure(value: Any, spans: list[float]) -> None:
    """Adds the power of ten of a value to the list."""
    import mpmath

    if isinstance(value, Fraction):
        if value:
            spans.append((abs(value.numerator).bit_length() - value.denominator.bit_length()) * math.log10(2))
    elif value and not mpmath.isinf(value):
        spans.append(float(mpmath.log10(abs(value))))


def _numeric(value: Any) -> Any:
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
    if abs(base) != 1 and bits * abs(exponent) > _MAX_BITS:
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


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return None
    if n > _MAX_FACTORIAL:
        raise TooLargeError
    return Fraction(math.comb(int(n), int(k)))


def _bounded(value: Fraction) -> Fraction:
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise TooLargeError
    return value


def _integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of_integers(*values: Fraction) -> Fraction | None:
        return None if any(v.denominator != 1 for v in values) else Fraction(function(*map(int, values)))

    return of_integers


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": lambda *values: _bounded(sum(values, Fraction(0))),
    "*": lambda *values: _bounded(math.prod(values, start=Fraction(1))),
    "/": _divide,
    "neg": lambda value: -value,
    "^": _power,
    "root": lambda value, degree: _exact_root(value, _divide(Fraction(1), degree)) if degree > 1 else None,
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "factorial": _factorial,
    "binom": _binomial,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "max": max,
    "min": min,
}


@functools.cache
def _functions() -> dict[str, Callable[..., Any]]:
    """Numeric functions by name, some of which mpmath has under other names."""
    import mpmath

    def root(value: Any, degree: Any) -> Any:
        odd = degree == mpmath.floor(degree.real) and int(degree.real) % 2
        negative = value.imag == 0 and value.real < 0
        return -mpmath.power(-value, 1 / degree) if odd and negative else mpmath.power(value, 1 / degree)

    names = "sin cos tan cot sec csc sinh cosh tanh exp floor ceil".split()
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
        "binom": mpmath.binomial,
        "max": max,
        "min": min,
    }


def _numeric_result(name: str, values: list[Any]) -> Any:
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
        if base and abs(exponent) * (abs(mpmath.log(base)) + 1) > _MAX_BITS:
            raise TooLargeError
    elif name in ("factorial", "binom", "sinh", "cosh", "tanh") and max(map(abs, values)) > _MAX_FACTORIAL:
        raise TooLargeError
    return _functions()[name](*values)
