"""Typed values of mathematical answers: expressions, lists and brackets, relations, sets and matrices."""

from __future__ import annotations

import dataclasses
from fractions import Fraction


class UntypedError(Exception):
    """A text is not in the grammar of typed values."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeral.

    value: the exact value of what is written.
    decimals: digits after the point of a plain decimal; None for other numerals.
    cut: True if dots follow the digits, as in 3.14159...
    """

    value: Fraction
    decimals: int | None = dataclasses.field(default=None, compare=False)
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A variable or a constant; a subscript is a part of its name, and so is the backslash of a command."""

    name: str


@dataclasses.dataclass(frozen=True)
class Apply:
    """An operation ("+", "*", "/", "^", "neg", "pm", "mp") or a function ("sin", "call f") with its arguments."""

    name: str
    args: tuple[Expr, ...]


Expr = Number | Symbol | Apply


@dataclasses.dataclass(frozen=True)
class Group:
    """Values in brackets, or without any ("" and ""); ("range", "") for 10-20.

    link: the word or sign between values without brackets: ",", "and" or "or".
    """

    opening: str
    closing: str
    items: tuple[Value, ...]
    link: str = ","


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix by rows; determinant: True if it stands between vertical bars."""

    rows: tuple[tuple[Value, ...], ...]
    determinant: bool = False


@dataclasses.dataclass(frozen=True)
class Relation:
    """A chain of n + 1 parts with n signs, each of = != < > <= >= in ~ and : for a ratio.

    bound: the variable of a set such as {x | x > 2}, whose name has no meaning outside; "" for other relations.
    """

    parts: tuple[Value, ...]
    signs: tuple[str, ...]
    bound: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class SetOperation:
    """The union, the intersection or the difference ("cup", "cap", "setminus") of two sets."""

    name: str
    left: Value
    right: Value


Value = Number | Symbol | Apply | Group | Matrix | Relation | SetOperation

PI, E, I, INFINITY, REALS = map(Symbol, (r"\pi", "e", "i", r"\infty", r"\mathbb{R}"))
EMPTY_SET = Group("{", "}", ())


def symbols(value: Expr) -> frozenset[str]:
    """Names of the variables in an expression, without constants."""
    if isinstance(value, Apply):
        return frozenset().union(*map(symbols, value.args))
    return frozenset((value.name,)) if isinstance(value, Symbol) and value not in (PI, E, I, INFINITY) else frozenset()


def contains(value: Value, names: frozenset[str]) -> bool:
    """True if an operation or a symbol with one of the names occurs in a value."""
    match value:
        case Symbol(name):
            return name in names
        case Apply(name, args):
            return name in names or any(contains(part, names) for part in args)
        case Group(_, _, items):
            return any(contains(part, names) for part in items)
        case Relation(parts, _):
            return any(contains(part, names) for part in parts)
        case _:
            return False


def choose_sign(value: Value, sign: str) -> Value:
    """The value with every plus-minus sign read as "+" or "-", and every minus-plus sign as the opposite."""
    match value:
        case Apply(name, args):
            chosen = [choose_sign(part, sign) for part in args]
            if name not in ("pm", "mp"):
                return combine(name, *chosen)
            last = combine("neg", chosen[-1]) if (name == "pm") == (sign == "-") else chosen[-1]
            return combine("+", chosen[0], last) if len(chosen) == 2 else last
        case Group(opening, closing, items, link):
            return Group(opening, closing, tuple(choose_sign(part, sign) for part in items), link)
        case Relation(parts, signs, bound):
            return Relation(tuple(choose_sign(part, sign) for part in parts), signs, bound)
        case _:
            return value


def combine(name: str, *args: Value) -> Value:
    """An operation on expressions, or on a matrix and a scalar, member by member."""
    matrices = [part for part in args if isinstance(part, Matrix)]
    if len(matrices) == 1 and name in ("*", "/", "neg") and isinstance(args[0] if name == "/" else matrices[0], Matrix):
        rows = tuple(
            tuple(combine(name, *(member if part is matrices[0] else part for part in args)) for member in row)
            for row in matrices[0].rows
        )
        return Matrix(rows, matrices[0].determinant)
    if name == "neg" and isinstance(args[0], Number):
        return Number(-args[0].value, args[0].decimals, args[0].cut)
    expressions: list[Expr] = [part for part in args if isinstance(part, Expr)]
    if len(expressions) < len(args):
        raise UntypedError(f"{name} of a value that is no expression")
    return Apply(name, tuple(expressions))


def common_fraction(expression: Expr) -> tuple[Expr, Expr]:
    """Numerator and denominator of an expression, whose sums are brought to a common denominator."""
    unit = Number(Fraction(1))
    match expression:
        case Apply("+", (left, right)):
            (a, b), (c, d) = common_fraction(left), common_fraction(right)
            if b == d:
                return Apply("+", (a, c)), b
            return Apply("+", (Apply("*", (a, d)), Apply("*", (c, b)))), Apply("*", (b, d))
        case Apply("*", (left, right)):
            (a, b), (c, d) = common_fraction(left), common_fraction(right)
            return Apply("*", (a, c)), Apply("*", (b, d))
        case Apply("/", (left, right)):
            (a, b), (c, d) = common_fraction(left), common_fraction(right)
            return Apply("*", (a, d)), Apply("*", (b, c))
        case Apply("neg", (inner,)):
            above, below = common_fraction(inner)
            return Apply("neg", (above,)), below
        case _:
            return expression, unit
