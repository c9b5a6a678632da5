"""Equality of two mathematical expressions: by math-verify, confirmed or refuted by numeric evaluation."""

from __future__ import annotations

import functools
import logging
import math
import re
from typing import Any

_LARGEST = 70_000  # bits; larger numbers, as 9^{9^9}, are not evaluated, and are equal only as identical expressions
_DIGITS, _SPARE_DIGITS = 60, 20  # digits to evaluate beyond those of the largest number, and last digits to ignore
_ROUNDED_DECIMALS, _ROUNDED = 1e-6, 2e-6  # largest absolute and relative difference to a rounded decimal


def same_expressions(one: str, other: str) -> bool:
    """True if two LaTeX formulas without units are equal: expressions, equations, sets, intervals, tuples, matrices."""
    from sympy import Equality, FiniteSet, Interval, Set, Tuple
    from sympy.logic.boolalg import Boolean

    math_verify = library()
    # math-verify's own time limits use signals; the deadline of the worker process makes them unnecessary.
    expected, given = (math_verify.parse(f"${text}$", parsing_timeout=0) for text in (one, other))
    first, second = map(_expression, (expected, given))
    if first is None or second is None:
        return math_verify.verify(expected, given, timeout_seconds=0)
    if isinstance(first, FiniteSet) != isinstance(second, FiniteSet) and isinstance(
        second if isinstance(first, FiniteSet) else first, Interval | Tuple
    ):
        # A list without brackets may be a tuple, but a set may not.
        bare, ordered = (one, other) if isinstance(first, FiniteSet) else (other, one)
        return not re.match(r"\\?\{", bare) and not bare.startswith("(") and same_expressions(f"({bare})", ordered)
    bits = max(_bits(first), _bits(second))
    if bits > _LARGEST:
        return first == second
    differ = _differ(first, second, _DIGITS + int(bits * math.log10(2)))
    if differ is not None and _is_value(first) and _is_value(second):
        return not differ
    if isinstance(first, Equality) and isinstance(second, Equality) and _proportional(first, second):
        return True
    # verify accepts a set for an expected relation, but not a relation for an expected set.
    if isinstance(first, Set) and isinstance(second, Boolean):
        expected, given = given, expected
    return math_verify.verify(expected, given, timeout_seconds=0) and not differ


def _proportional(one: Any, other: Any) -> bool:
    """True if two equations differ only by a factor, as y = 3x - 2 and 3x - y = 2 do."""
    from sympy import Expr, Rational

    if not all(isinstance(side, Expr) for side in (*one.args, *other.args)):
        return False
    ratio = (one.lhs - one.rhs) / (other.lhs - other.rhs)
    symbols = sorted(ratio.free_symbols, key=str)
    points = [{s: Rational(7 + 5 * i + 3 * shift, 11 + 2 * i) for i, s in enumerate(symbols)} for shift in range(3)]
    first, *rest = (_value(ratio.subs(point), _DIGITS) for point in points)
    return bool(first) and all(value is not None and _equal(first, value, _DIGITS) for value in rest)


def _expression(parsed: list[Any]) -> Any:
    """The sympy object that math-verify found, with i as the imaginary unit; None if it found only text."""
    from sympy import Basic, I, MatrixBase

    found: Any = next((part for part in parsed if isinstance(part, Basic | MatrixBase)), None)
    return None if found is None else found.xreplace({s: I for s in found.free_symbols if s.name == "i"})


def _is_value(expression: Any) -> bool:
    """True if an object is an expression without symbols."""
    from sympy import Expr

    return isinstance(expression, Expr) and not expression.free_symbols


def _bits(expression: Any) -> float:
    """An upper bound on the bits of all numbers in an expression, found without evaluating it."""
    from sympy import Float, Integer, Pow, Rational, binomial, exp, factorial, gamma

    if isinstance(expression, Rational):
        return float(max(abs(expression.p).bit_length(), expression.q.bit_length()))
    if isinstance(expression, Float):
        return abs(math.frexp(float(expression))[1]) + 1.0 if abs(float(expression)) < math.inf else math.inf
    parts = [_bits(part) for part in getattr(expression, "args", ())] or [2.0]
    if not isinstance(expression, Pow | exp | factorial | gamma | binomial):
        return sum(parts)
    largest = 2.0 ** min(parts[-1] if isinstance(expression, Pow | exp) else max(parts), 60.0)  # exponent or argument
    if isinstance(expression, Pow) and isinstance(expression.exp, Integer):
        largest = float(abs(expression.exp))
    return max(*parts, largest * (parts[0] if isinstance(expression, Pow) else max(parts)))


def _differ(one: Any, other: Any, digits: int) -> bool | None:
    """True if two expressions differ in value, at one of several points if they have symbols; None if unknown."""
    from sympy import Expr, FiniteSet, Interval, MatrixBase, Tuple
    from sympy.core.relational import Relational

    def both(*kinds: type) -> bool:
        return isinstance(one, kinds) and isinstance(other, kinds)

    if both(Expr):
        return _values_differ(one, other, digits)
    if both(FiniteSet) and len(one) == len(other):
        return any(
            all(_differ(a, b, digits) for b in there) for here, there in ((one, other), (other, one)) for a in here
        )
    if both(Interval):
        pairs = [(one.start, other.start), (one.end, other.end)]
    elif both(Relational) and one.lhs == other.lhs:
        pairs = [(one.rhs, other.rhs)]
    elif both(Tuple, MatrixBase) and len(one) == len(other):
        pairs = list(zip(one, other, strict=True))
    else:
        return None
    return any(_differ(a, b, digits) for a, b in pairs)


def _values_differ(one: Any, other: Any, digits: int) -> bool | None:
    """_differ for two scalar expressions, evaluated at three points if they have symbols."""
    from sympy import Float, Rational

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    rounded = bool(one.atoms(Float) or other.atoms(Float))
    differ = None
    for shift in range(3 if symbols else 1):
        point = {s: Rational(7 + 5 * i + 3 * shift, 11 + 2 * i) for i, s in enumerate(symbols)}
        first, second = (_value(each.subs(point) if point else each, digits) for each in (one, other))
        if first is not None and second is not None:
            differ = not (equal_when_rounded(first, second) if rounded else _equal(first, second, digits))
            if differ:
                return True
    return differ


def _value(expression: Any, digits: int) -> Any:
    """The value of an expression without symbols as an mpmath number; None if it has no finite value."""
    import mpmath
    from sympy import Float, N

    def known(part: Any) -> Any:
        if not part.is_Number or not part.is_finite:
            return None
        # sympy gives a precision of one bit to a value whose digits all cancel, such as sin(pi).
        return 0 if isinstance(part, Float) and part._prec == 1 else part._to_mpmath(4 * digits)

    try:
        parts = [known(part) for part in N(expression, digits).as_real_imag()]
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError, RecursionError):
        return None
    with mpmath.workdps(digits + 10):
        return None if None in parts else mpmath.mpc(*parts)


def _equal(one: Any, other: Any, digits: int) -> bool:
    """True if two mpmath numbers agree in all but the last _SPARE_DIGITS digits."""
    import mpmath

    with mpmath.workdps(digits + 10):
        return abs(one - other) <= max(abs(one), abs(other)) * mpmath.mpf(10) ** (_SPARE_DIGITS - digits)


def equal_when_rounded(one: Any, other: Any) -> bool:
    """True if two numbers, fractions or complex, differ by no more than rounding to six places."""
    difference = abs(one - other)
    return difference <= _ROUNDED_DECIMALS and difference <= _ROUNDED * max(abs(one), abs(other))


@functools.cache
def library() -> Any:
    """The module math_verify with its grammars loaded, which takes seconds."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its time limits are off
    parsed = math_verify.parse("$1+x$", parsing_timeout=0)  # the first use loads its grammars
    math_verify.verify(parsed, parsed, timeout_seconds=0)
    return math_verify
