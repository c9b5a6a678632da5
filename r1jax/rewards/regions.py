"""Sets of real numbers as unions of intervals and points."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from r1jax.rewards import evaluation
from r1jax.rewards.functions import TooLargeError, UndefinedError
from r1jax.rewards.values import (
    INFINITY,
    REALS,
    Apply,
    Expr,
    Group,
    Number,
    Relation,
    SetOperation,
    Symbol,
    Value,
    symbols,
)

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


@dataclasses.dataclass(frozen=True)
class End:
    """An end of an interval: its expression, its value, and 0 for the value itself, -1 or 1 for just beside it."""

    expression: Expr
    value: Any = dataclasses.field(compare=False)
    side: int

    def before(self, other: End) -> bool:
        """True if this end lies before another one."""
        if abs(self.value - other.value) > 1e-4 * max(abs(self.value), abs(other.value)):  # more than rounding
            return bool(self.value < other.value)
        if evaluation.same_value(self.expression, other.expression):
            return self.side < other.side
        return bool(self.value < other.value)


_MOST_PIECES = 30  # of a region, so that the time is bounded
Region = tuple[tuple[End, End], ...]  # pieces from a first to a last member, in order, with gaps between them

_LOWEST, _HIGHEST = (
    End(INFINITY if sign > 0 else Apply("neg", (INFINITY,)), sign * float("inf"), -sign) for sign in (-1, 1)
)
_ALL: Region = ((_LOWEST, _HIGHEST),)


def same_region(one: Region, other: Region) -> bool:
    """True if two regions contain the same numbers."""
    return len(one) == len(other) and all(
        not (a.before(b) or b.before(a)) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def variables(value: Value) -> frozenset[str]:
    """The variables of the relations that a set is described by."""
    match value:
        case Relation(parts, signs, bound):
            described = parts[:1] if signs == ("in",) else parts
            return frozenset().union(*(symbols(part) for part in described if isinstance(part, Expr))) - {bound}
        case Group("" | "{", _, items):
            return frozenset().union(*map(variables, items))
        case SetOperation(_, left, right):
            return variables(left) | variables(right)
        case _:
            return frozenset()


def region(value: Value) -> Region | None:
    """The set of real numbers that a value describes; None if it describes none, or if it cannot be computed."""
    if isinstance(value, Group) and len(value.items) > _MOST_PIECES:
        return None
    found = _region(value)
    return None if found is not None and len(found) > _MOST_PIECES else found


def _region(value: Value) -> Region | None:
    match value:
        case Symbol() if value == REALS:
            return _ALL
        case Group("{", "}", items):
            points = [_point(item) for item in items]
            return None if None in points else _normal([(p, p) for p in points if p is not None])
        case Group("(" | "[" as opening, ")" | "]" as closing, (low, high)):
            first, last = _end(low, opening == "(", 1), _end(high, closing == ")", -1)
            if first is None or last is None or last.value < first.value:
                return None
            if (first == _LOWEST and opening == "[") or (last == _HIGHEST and closing == "]"):
                return None  # infinity is no member
            return _normal([(first, last)])
        case Group("", "", items, link):
            parts = [region(item) for item in items]
            if any(part is None for part in parts):
                return None
            known = [part for part in parts if part is not None]
            if link != "or" and any(isinstance(item, Relation) and "=" not in item.signs for item in items):
                common = known[0]
                for part in known[1:]:
                    common = _intersection(common, part)
                if common or link == "and":
                    return common or None
            return _normal([piece for part in known for piece in part])
        case SetOperation(name, left, right):
            one, other = region(left), region(right)
            if one is None or other is None:
                return None
            if name == "cup":
                return _normal([*one, *other])
            return _intersection(one, other if name == "cap" else _complement(other))
        case Relation(parts, signs):
            return _chain(parts, signs)
        case _:
            return None


def _chain(parts: tuple[Value, ...], signs: tuple[str, ...]) -> Region | None:
    """Solutions of a chain such as 1 < x <= 3."""
    if signs == ("in",):
        return region(parts[1])
    if len(signs) > 1 and not (set(signs) <= {"<", "<="} or set(signs) <= {">", ">="}):
        return None
    found = _ALL
    for left, sign, right in zip(parts, signs, parts[1:], strict=False):
        solutions = _solutions(left, sign, right)
        if solutions is None:
            return None
        found = _intersection(found, solutions)
    return found


def _solutions(left: Value, sign: str, right: Value) -> Region | None:
    """Solutions of a linear relation in one variable."""
    if sign not in _FLIPPED or not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    names = symbols(left) | symbols(right)
    if len(names) != 1:
        return None
    if isinstance(left, Apply) and left.name == "abs" and not symbols(right):
        negative = Apply("neg", (right,))
        opposite = _solutions(left.args[0], _FLIPPED[sign], negative)
        direct = _solutions(left.args[0], sign, right)
        bound = evaluation.number(right)
        if opposite is None or direct is None or bound is None or bound <= 0 or sign == "!=":
            return None
        return _intersection(opposite, direct) if sign in ("<", "<=") else _normal([*opposite, *direct])
    if isinstance(right, Symbol) and not symbols(left):
        left, sign, right = right, _FLIPPED[sign], left
    if isinstance(left, Symbol) and not symbols(right):
        return _half_line(sign, right)
    name = next(iter(names))
    difference = Apply("+", (left, Apply("neg", (right,))))
    try:
        at = [evaluation.evaluate(difference, {name: Fraction(n)}, 50) for n in (0, 1, 2, Fraction(-10, 3))]
    except (UndefinedError, TooLargeError):
        return None
    slope = at[1] - at[0]
    if not all(isinstance(value, Fraction) for value in at) or slope == 0 or at[0] + 2 * slope != at[2]:
        return None
    if at[0] - slope * Fraction(10, 3) != at[3]:
        return None
    return _half_line(sign if slope > 0 else _FLIPPED[sign], Number(-at[0] / slope))


def _half_line(sign: str, bound: Expr) -> Region | None:
    at, above, below = _end(bound, False, 0), _end(bound, True, 1), _end(bound, True, -1)
    if at is None or above is None or below is None:
        return None
    return {
        "<": ((_LOWEST, below),),
        "<=": ((_LOWEST, at),),
        ">": ((above, _HIGHEST),),
        ">=": ((at, _HIGHEST),),
        "=": ((at, at),),
        "!=": ((_LOWEST, below), (above, _HIGHEST)),
    }[sign]


def _point(value: Value) -> End | None:
    end = _end(value, False, 0)
    return None if end is None or abs(end.value) == float("inf") else end


def _end(value: Value, is_open: bool, side: int) -> End | None:
    """An end of an interval; infinity belongs to none."""
    if not isinstance(value, Expr):
        return None
    number = evaluation.number(value)
    if number is None:
        return None
    if abs(number) == float("inf"):
        return _HIGHEST if number > 0 else _LOWEST
    return End(value, number, side if is_open else 0)


def _normal(pieces: list[tuple[End, End]]) -> Region:
    """The pieces in order, joined where they touch, without empty ones."""
    merged: list[tuple[End, End]] = []
    for first, last in _sorted([piece for piece in pieces if not piece[1].before(piece[0])]):
        if merged and not _gap(merged[-1][1], first):
            merged[-1] = (merged[-1][0], last if merged[-1][1].before(last) else merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def _sorted(pieces: list[tuple[End, End]]) -> list[tuple[End, End]]:
    found: list[tuple[End, End]] = []
    for piece in pieces:
        at = next((i for i, other in enumerate(found) if piece[0].before(other[0])), len(found))
        found.insert(at, piece)
    return found


def _gap(last: End, first: End) -> bool:
    """True if a number lies between the end of one piece and the start of the next."""
    if not last.before(first):
        return False
    return not evaluation.same_value(last.expression, first.expression) or first.side - last.side > 1


def _complement(found: Region) -> Region:
    ends = [_LOWEST, *(end for piece in found for end in piece), _HIGHEST]
    pieces = [
        (_beside(first, 1) if i else first, _beside(last, -1) if i < len(found) else last)
        for i, (first, last) in enumerate(zip(ends[::2], ends[1::2], strict=True))
    ]
    return _normal([(first, last) for first, last in pieces if first.side <= 1 and last.side >= -1])


def _beside(end: End, step: int) -> End:
    return dataclasses.replace(end, side=end.side + step)


def _intersection(one: Region, other: Region) -> Region:
    pieces = []
    for first, last in one:
        for start, stop in other:
            pieces.append((start if first.before(start) else first, stop if stop.before(last) else last))
    return _normal(pieces)
