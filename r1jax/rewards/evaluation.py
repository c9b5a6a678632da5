"""Equality of expressions by value: exact fractions where possible, else at least 50 digits, at several points.

Numbers of more than functions.MAX_BITS, such as 9^{9^9}, are not computed, so that the time is bounded. They are equal
only if they are the same power, product or factorial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from r1jax.rewards.functions import EXACT, TooLargeError, UndefinedError, numeric, numeric_result
from r1jax.rewards.values import INFINITY, PI, Apply, E, Expr, I, Number, Symbol, contains, symbols

_DIGITS = 50  # compared beyond the span from the largest to the smallest intermediate value
_MAX_SPAN = 2500  # digits; a wider span is not evaluated
_MAX_WORK = 100_000  # span in digits, times the number of values that are computed
_SPARE = 20  # last digits that rounding may change
_SHIFT = 40  # further digits of the second evaluation, which tells zero from a tiny value
_FAR = 1e-4  # relative difference of values that no rounding explains
_OF_INTEGERS = frozenset(("floor", "ceil", "double factorial"))
_WHOLE = frozenset("jklmnN")  # letters that stand for integers in expressions with these functions
_PLACES = 6  # digits after the point, and significant digits, from which a decimal may stand for another value


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
        integers = bool(names) and (contains(one, _OF_INTEGERS) or contains(other, _OF_INTEGERS))
        for point in _points_with_integers(names) if integers else _points(names):
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
        return None if value is None else numeric(value)


def real(value: Any) -> Any:
    """A real number as such; None for another complex number."""
    if isinstance(value, Fraction):
        return value
    return value.real if abs(value.imag) <= abs(value) * 1e-30 else None


def _points(names: list[str]) -> list[dict[str, Fraction]]:
    """Values of the variables: small, larger, and of both signs; all multiples of unusual fractions."""
    if not names:
        return [{}]
    starts = (
        (Fraction(3, 17), Fraction(2, 23)),
        (Fraction(31, 13), Fraction(7, 11)),
        (Fraction(-19, 7), Fraction(9, 8)),
    )
    points = [{name: start + i * step for i, name in enumerate(names)} for start, step in starts]
    return [*points, {name: Fraction(5 + 2 * i, -9 if i % 2 else 9) * Fraction(17, 8) for i, name in enumerate(names)}]


def _points_with_integers(names: list[str]) -> list[dict[str, Fraction]]:
    """Integers for all variables, and then other values for those that do not stand for integers."""
    whole = [{name: Fraction(start + 5 * i) for i, name in enumerate(names)} for start in (4, 7, 9, 10, 11, 8, 12)]
    mixed = [*_points(names), {name: Fraction(19 + 3 * i, 5) for i, name in enumerate(names)}]
    return whole + [
        {name: integers[name] if name[0] in _WHOLE else point[name] for name in names}
        for integers, point in zip(whole, mixed, strict=False)
    ]


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
        if digits > _DIGITS + _MAX_SPAN or (digits - _DIGITS) * len(spans) > _MAX_WORK:
            raise TooLargeError
        if digits < _DIGITS + _SPARE // 2 and (real(pair[0]) is None) == (real(pair[1]) is None):
            with mpmath.workdps(_DIGITS):
                sizes = [abs(numeric(value)) for value in pair]
                noise = mpmath.mpf(10) ** (max([0.0, *spans]) - _SPARE)
                if abs(numeric(pair[0]) - numeric(pair[1])) > max(max(sizes) * _FAR, noise):
                    return False
        first, second = ([evaluate(each, point, digits + more) for each in (one, other)] for more in (0, _SHIFT))
    except UndefinedError:
        return None
    kinds = [real(value) is not None for value in second]
    if point and kinds[0] != kinds[1]:
        return None
    with mpmath.workdps(digits + _SHIFT + 10):
        gaps = [abs(numeric(a) - numeric(b)) for a, b in (first, second)]
        size = max(abs(numeric(value)) for value in second)
        last = mpmath.mpf(10) ** (_SPARE - digits - _SHIFT)
        vanishes = gaps[1] <= gaps[0] * mpmath.mpf(10) ** (-_SHIFT // 2)
        if gaps[1] <= size * last or (vanishes and gaps[1] <= last * mpmath.mpf(10) ** max([0.0, *spans])):
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
        steps = abs(numeric(value) - numeric(decimal.value)) * mpmath.mpf(10) ** decimal.decimals
        if decimal.cut:
            return steps < 1 and abs(numeric(value)) >= abs(numeric(decimal.value))
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
    if expression.name in EXACT and all(isinstance(part, Number) for part in args):
        try:
            value = EXACT[expression.name](*(part.value for part in args))  # pyright: ignore[reportAttributeAccessIssue]
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
    except (ValueError, ArithmeticError, TypeError) as error:
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
    if name in EXACT and all(isinstance(value, Fraction) for value in values):
        result = EXACT[name](*values)
    if result is None:
        result = numeric_result(name, [numeric(value) for value in values])
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
