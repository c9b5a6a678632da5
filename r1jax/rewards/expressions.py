"""Equality of sums, products, integrals and limits: read by math-verify, decided by numeric evaluation."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

_LARGEST = 70_000  # bits; formulas with larger numbers are not evaluated
_MOST_DIGITS = 2500
_DIGITS, _SPARE_DIGITS = 60, 20  # digits to evaluate beyond those of the largest number, and last digits to ignore
_ERRORS = (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError, RecursionError)


def same_expressions(one: str, other: str) -> bool:
    """True if two LaTeX formulas without units have one value, at three points if they have variables."""
    try:
        first, second = map(_expression, (one, other))
        if first is None or second is None:
            return False
        bits = max(_bits(first), _bits(second))
        return bits <= _LARGEST and _same_values(first, second, _DIGITS + int(bits * math.log10(2)))
    except _ERRORS:
        return False


def _expression(text: str) -> Any:
    """The scalar sympy expression that math-verify reads, with i as the imaginary unit; None if it reads none."""
    from sympy import Expr, I

    # math-verify's own time limits use signals; the deadline of the worker process makes them unnecessary.
    parsed = library().parse(f"${text}$", parsing_timeout=0)
    found: Any = next((part for part in parsed if isinstance(part, Expr)), None)
    return None if found is None else found.xreplace({s: I for s in found.free_symbols if s.name == "i"})


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


def _same_values(one: Any, other: Any, digits: int) -> bool:
    """True if two expressions agree in all but the last _SPARE_DIGITS digits at each point where both have a value."""
    import mpmath
    from sympy import Rational

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    compared = False
    for shift in range(3 if symbols else 1):
        point = {s: Rational(7 + 5 * i + 3 * shift, 11 + 2 * i) for i, s in enumerate(symbols)}
        first, second = (_value(each.subs(point) if point else each, digits) for each in (one, other))
        if first is None or second is None:
            continue
        with mpmath.workdps(digits + 10):
            size = max(abs(first), abs(second))
            more = int(mpmath.log10(size)) if size > 1 else 0
        if more > digits - _SPARE_DIGITS - _DIGITS // 2:  # the last digit before the point has to be compared, too
            if more > _MOST_DIGITS:
                return False
            return _same_values(one, other, _DIGITS + more)
        with mpmath.workdps(digits + 10):
            compared = True
            if abs(first - second) > max(abs(first), abs(second)) * mpmath.mpf(10) ** (_SPARE_DIGITS - digits):
                return False
    return compared


def _value(expression: Any, digits: int) -> Any:
    """The value of an expression without symbols as an mpmath number; None if it has no finite value.

    Also None for a sum, product or integral of which sympy finds no digit, which it reports as zero.
    """
    import mpmath
    from sympy import Float, N
    from sympy.concrete.expr_with_limits import ExprWithLimits

    def known(part: Any) -> Any:
        if not part.is_Number or not part.is_finite:
            return None
        # sympy gives a precision of one bit to a value whose digits all cancel, such as sin(pi).
        if isinstance(part, Float) and part._prec == 1 and expression.has(ExprWithLimits):
            return None
        return 0 if isinstance(part, Float) and part._prec == 1 else part._to_mpmath(4 * digits)

    parts = [known(part) for part in N(expression, digits).as_real_imag()]
    with mpmath.workdps(digits + 10):
        return None if None in parts else mpmath.mpc(*parts)


@functools.cache
def library() -> Any:
    """The module math_verify with its grammars loaded, which takes seconds."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its time limits are off
    math_verify.parse("$1+x$", parsing_timeout=0)  # the first use loads its grammars
    return math_verify
