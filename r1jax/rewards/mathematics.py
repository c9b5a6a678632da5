r"""Whether two mathematical answers say the same: as words, as numbers, or by math-verify with a numeric check.

Markup that changes no value (``\boxed``, ``$``, markdown emphasis, ``\left``, spaces, currency, thousands separators, a
full stop) does not count. A unit or a "x =" that one answer leaves out is taken from the other. Words are compared as
words: "east" is no product of four symbols. What math-verify takes for equal must be so numerically, too.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
from fractions import Fraction
from typing import Any

from r1jax.data.text.numbers import read_number
from r1jax.rewards.notation import TEXT, read_answer

_LONGEST = 2000  # characters of an answer that is parsed: beyond, only the same text is equal
_DEEPEST = 10  # brackets, or powers of powers, inside each other: beyond, parsing takes up to minutes
_LARGEST = 70_000  # bits of a number that is evaluated: beyond, as for 9^{9^9}, only the same expression is equal
_DIGITS, _SPARE_DIGITS = 60, 20  # that are evaluated beyond those of the largest number, and that need not agree
_ROUNDED_DECIMALS, _ROUNDED = 1e-6, 2e-6  # absolute and relative difference to what has decimals

_NAMED = re.compile(r"(?:[A-Za-z]+|\\[a-z]+)(?:_(?:\w|\{[^{}]*\}))?(?:\([a-z]\))? ?= ?([^=]+)")

# Names that are mathematics and no words.
_NAMES = frozenset(
    (
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "ln",
        "lg",
        "exp",
        "lim",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
        "det",
        "sqrt",
        "frac",
        "pi",
        "theta",
        "alpha",
        "beta",
        "gamma",
        "infinity",
        "infty",
        "inf",
        "cup",
        "cap",
        "times",
        "cdot",
        "div",
        "le",
        "ge",
        "ne",
    )
)
_LINKS = frozenset(("and", "or", "if", "for", "when", "where", "with", "the", "are", "answer", "result"))
# Words that make another value of the number beside them.
_CHANGES = frozenset(
    (
        "not",
        "no",
        "more",
        "less",
        "least",
        "most",
        "over",
        "under",
        "above",
        "below",
        "greater",
        "fewer",
        "than",
        "plus",
        "minus",
        "times",
        "squared",
        "cubed",
        "factorial",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "fifths",
        "sixths",
        "eighths",
        "tenths",
        "hundredths",
        "thousandths",
        "dozen",
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
    )
)
_SHORT = frozenset(
    (
        "no",
        "on",
        "up",
        "us",
        "am",
        "an",
        "as",
        "at",
        "be",
        "by",
        "do",
        "go",
        "he",
        "hi",
        "if",
        "in",
        "is",
        "it",
        "me",
        "my",
        "of",
        "oh",
        "ok",
        "or",
        "so",
        "to",
        "we",
    )
)


def equivalent(expected: str, given: str) -> bool:
    """Whether a given answer is equal to the expected one; nothing is equal to an empty answer.

    Decimals count as equal to what they round, to six places: 0.333333 is 1/3, and 0.33 is not.
    """
    if max(len(expected), len(given)) > _LONGEST:
        return bool(given.strip()) and expected.strip() == given.strip()
    one, other = read_answer(expected), read_answer(given)
    if not one.formula or not other.formula or (one.unit and other.unit and one.unit != other.unit):
        return False
    if one.formula == other.formula:
        return True
    if _is_deep(one.formula) or _is_deep(other.formula):
        return False
    if {one.unit, other.unit} == {"%", ""}:  # 50% is 50, as questions ask for percents, and 0.5
        parts = [rf"\frac{{{a.formula}}}{{100}}" if a.unit else a.formula for a in (one, other)]
        if _same(*parts):
            return True
    return _same(one.formula, other.formula)


def _is_deep(text: str) -> bool:
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    return (
        max(map(abs, depths), default=0) > _DEEPEST
        or re.search(rf"(?:\^[^\^+,=]{{0,3}}){{{_DEEPEST}}}", text) is not None
    )


def load() -> None:
    """Imports math-verify and loads its grammars, which takes seconds."""
    _library()


def _same(one: str, other: str) -> bool:
    words = _words(one), _words(other)
    if words[0] or words[1]:
        return words[0] == words[1]
    named = [_NAMED.fullmatch(text) for text in (one, other)]
    if bool(named[0]) != bool(named[1]) and not ("=" in one and "=" in other):
        one, other = (match[1].strip() if match else text for match, text in zip(named, (one, other), strict=True))
    if _loose_words(one) and _loose_words(other) and _loose_words(one) != _loose_words(other):
        return False
    first, second = _plain_number(one), _plain_number(other)
    if first is not None and second is not None:
        return first == second or (_repeats(first) != _repeats(second) and _rounds(first, second))
    changes = [_CHANGES & set(re.findall(r"(?<![a-z\\])[a-z]+", text.casefold())) for text in (one, other)]
    return changes[0] == changes[1] and _same_expressions(*map(_both_signs, (one, other)))


def _both_signs(text: str) -> str:
    """The two values that a text with one plus-minus sign stands for."""
    parts = re.split(r"\\pm(?![A-Za-z])|±", text)
    if len(parts) != 2 or "," in text or r"\mp" in text:
        return text
    return f"{'+'.join(parts)}, {'-'.join(parts)}"


def _words(text: str) -> str:
    """The words of a text that is nothing but words, in lower case; "" for any other."""
    text = TEXT.sub(r" \1 ", text)
    tokens = re.findall(r"[^\W\d_]+", text)
    if not re.fullmatch(r"(?:[^\W\d_]|[\s'’.,()\"-])*", text) or not any(map(_is_word, tokens)):
        return ""
    return " ".join(tokens).casefold()


def _is_word(token: str) -> bool:
    """Whether letters are a word: two or more that are no known name, but a product such as xy has no vowel."""
    if not token.isascii():
        return True
    if len(token) < 2 or token in _NAMES:
        return False
    return (
        token.isupper() or token.lower() in _SHORT or (len(token) > 2 and re.search("[aeiouAEIOU]", token) is not None)
    )


def _loose_words(text: str) -> list[str]:
    """Words that stand by themselves among formulas, apart from those that link them."""
    tokens = re.findall(r"(?<![^\s(,])[^\W\d_]{3,}(?![^\s),.])", TEXT.sub(r" \1 ", text))
    return sorted(t.casefold() for t in tokens if _is_word(t) and t.casefold() not in _LINKS)


def _plain_number(text: str) -> Fraction | None:
    """The value of a text that is one number; None for 5m, where the letter may be a symbol, and for 3!."""
    number = read_number(text)
    return None if number is None or number.unit or text.endswith("!") else number.value


def _repeats(value: Fraction) -> bool:
    """Whether a fraction such as 1/3 has no end as a decimal."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1


def _same_expressions(one: str, other: str) -> bool:
    from sympy import Equality, FiniteSet, Interval, Set, Tuple
    from sympy.logic.boolalg import Boolean

    library = _library()
    # Without its own time limits: they use signals, which the deadline of the worker makes needless.
    expected, given = (library.parse(f"${text}$", parsing_timeout=0) for text in (one, other))
    first, second = map(_expression, (expected, given))
    if first is None or second is None:
        return library.verify(expected, given, timeout_seconds=0)
    if isinstance(first, FiniteSet) != isinstance(second, FiniteSet) and isinstance(
        second if isinstance(first, FiniteSet) else first, Interval | Tuple
    ):  # a list without brackets may be a tuple, and a set is none
        bare, ordered = (one, other) if isinstance(first, FiniteSet) else (other, one)
        return not re.match(r"\\?\{", bare) and not bare.startswith("(") and _same_expressions(f"({bare})", ordered)
    bits = max(_bits(first), _bits(second))
    if bits > _LARGEST:
        return first == second
    differ = _differ(first, second, _DIGITS + int(bits * math.log10(2)))
    if differ is not None and _is_value(first) and _is_value(second):
        return not differ
    if isinstance(first, Equality) and isinstance(second, Equality) and _proportional(first, second):
        return True
    if isinstance(first, Set) and isinstance(second, Boolean):  # it takes sets for relations, and not the reverse
        expected, given = given, expected
    return library.verify(expected, given, timeout_seconds=0) and not differ


def _proportional(one: Any, other: Any) -> bool:
    """Whether two equations differ by a factor alone, as y = 3x - 2 and 3x - y = 2 do."""
    from sympy import Expr, Rational

    if not all(isinstance(side, Expr) for side in (*one.args, *other.args)):
        return False
    ratio = (one.lhs - one.rhs) / (other.lhs - other.rhs)
    symbols = sorted(ratio.free_symbols, key=str)
    points = [{s: Rational(7 + 5 * i + 3 * shift, 11 + 2 * i) for i, s in enumerate(symbols)} for shift in range(3)]
    first, *rest = (_value(ratio.subs(point), _DIGITS) for point in points)
    return bool(first) and all(value is not None and _equal(first, value, _DIGITS) for value in rest)


def _expression(parsed: list[Any]) -> Any:
    """The sympy object that math-verify found, with i for the imaginary unit; None where it found text alone."""
    from sympy import Basic, I, MatrixBase

    found: Any = next((part for part in parsed if isinstance(part, Basic | MatrixBase)), None)
    return None if found is None else found.xreplace({s: I for s in found.free_symbols if s.name == "i"})


def _is_value(expression: Any) -> bool:
    from sympy import Expr

    return isinstance(expression, Expr) and not expression.free_symbols


def _bits(expression: Any) -> float:
    """A bound on the bits of all numbers in an expression, which evaluates none of them."""
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
    """Whether two expressions have other values, at some points where there are symbols; None where that is unknown."""
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
    from sympy import Float, Rational

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    rounded = bool(one.atoms(Float) or other.atoms(Float))
    found = None
    for shift in range(3 if symbols else 1):
        point = {s: Rational(7 + 5 * i + 3 * shift, 11 + 2 * i) for i, s in enumerate(symbols)}
        first, second = (_value(each.subs(point) if point else each, digits) for each in (one, other))
        if first is not None and second is not None:
            found = not (_rounds(first, second) if rounded else _equal(first, second, digits))
            if found:
                return True
    return found


def _value(expression: Any, digits: int) -> Any:
    """An expression without symbols as a mpmath number of so many digits; None where it has no finite value."""
    import mpmath
    from sympy import Float, N

    def known(part: Any) -> Any:
        if not part.is_Number or not part.is_finite:
            return None
        # All digits cancel in one such as sin(pi), which sympy marks by a precision of one bit.
        return 0 if isinstance(part, Float) and part._prec == 1 else part._to_mpmath(4 * digits)

    try:
        parts = [known(part) for part in N(expression, digits).as_real_imag()]
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError, RecursionError):
        return None
    with mpmath.workdps(digits + 10):
        return None if None in parts else mpmath.mpc(*parts)


def _equal(one: Any, other: Any, digits: int) -> bool:
    import mpmath

    with mpmath.workdps(digits + 10):
        return abs(one - other) <= max(abs(one), abs(other)) * mpmath.mpf(10) ** (_SPARE_DIGITS - digits)


def _rounds(one: Any, other: Any) -> bool:
    """Whether the difference of two numbers, fractions or complex, is one that rounding to six places makes."""
    difference = abs(one - other)
    return difference <= _ROUNDED_DECIMALS and difference <= _ROUNDED * max(abs(one), abs(other))


@functools.cache
def _library() -> Any:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    parsed = math_verify.parse("$1+x$", parsing_timeout=0)  # the first use loads its grammars
    math_verify.verify(parsed, parsed, timeout_seconds=0)
    return math_verify
