"""Equality of two typed values.

Each value can be read as one or more kinds: (1, 2) as a point and as an interval, "1, 2" as a list, a point and a set.
Two values are equal if they are equal as the first kind that both can be read as, in the order of _KINDS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards import evaluation
from r1jax.rewards.definitions import UNKNOWNS, definition, name_of
from r1jax.rewards.regions import region, same_region, variables
from r1jax.rewards.values import (
    REALS,
    Apply,
    Expr,
    Group,
    Matrix,
    Number,
    Relation,
    SetOperation,
    Symbol,
    Value,
    common_fraction,
    symbols,
)

Verdict = bool | None  # None: unknown
_LONGEST = 100  # members of a list that are compared in any order; longer lists keep their order


def same(one: Value, other: Value) -> Verdict:
    """True if two typed values are equal answers, False if they differ, None if that cannot be decided."""
    one, other = _last_of_chain(one), _last_of_chain(other)
    equations = [isinstance(value, Relation) and value.signs == ("=",) for value in (one, other)]
    if equations == [True, True]:
        return _same_equation(one, other)  # pyright: ignore[reportArgumentType]
    if any(equations):
        named, bare = (one, other) if equations[0] else (other, one)
        defined = definition(named)  # pyright: ignore[reportArgumentType]
        if defined is not None and not (isinstance(bare, Relation) and "=" not in bare.signs):
            return same(defined[1], bare)
    kinds = _kinds(one), _kinds(other)
    for name, compare in _KINDS.items():
        if name in kinds[0] and name in kinds[1]:
            return compare(kinds[0][name], kinds[1][name])
    single, scalar = (0, 1) if "set" in kinds[0] else (1, 0)
    if "set" in kinds[single] and "scalar" in kinds[scalar]:
        members = _members(kinds[single]["set"])
        return members is not None and len(members) == 1 and same(members[0], kinds[scalar]["scalar"])
    return False


def _kinds(value: Value) -> dict[str, Any]:
    """The kinds that a value can be read as, with what is compared of each."""
    match value:
        case Symbol() if value == REALS:
            return {"set": value}
        case Apply("binom", (above, below)):
            return {"scalar": value, "matrix": Matrix(((above,), (below,)))}
        case Apply(name, args) if re.fullmatch("call [A-Z]", name) and len(args) > 1:
            return {"scalar": value, "tuple": args}  # P(1, 2) is a point with its name
        case Number() | Symbol() | Apply():
            return {"scalar": value}
        case Matrix():
            return {"matrix": value}
        case Group("range", "", items):
            return {"range": items}
        case Group("", "", items):
            return _list_kinds(value, items)
        case Group("{", "}"):
            return {"set": value}
        case Group("[", "]", items) if len(items) > 1 and all(
            isinstance(row, Group) and row.opening == "[" and len(row.items) == len(items[0].items)  # pyright: ignore[reportAttributeAccessIssue]
            for row in items
        ):
            return {"matrix": Matrix(tuple(row.items for row in items))}  # pyright: ignore[reportAttributeAccessIssue]
        case Group("[", "]", (Number() | Symbol() | Apply(), Number() | Symbol() | Apply())):
            return {"set": value}
        case Group("(" | "[" | "langle", _, items):
            interval = len(items) == 2 and value.opening != "langle"
            point = {} if (value.opening, value.closing) in (("(", "]"), ("[", ")")) else {"tuple": items}
            return {**point, **({"set": value} if interval else {})}
        case Relation(parts, signs) if set(signs) == {":"}:
            ratio = {"ratio": parts}
            if len(parts) == 2 and all(isinstance(part, Expr) for part in parts):
                return {**ratio, "range": parts, "scalar": Apply("/", parts)}  # pyright: ignore[reportArgumentType]
            return ratio
        case Relation(parts, ("in",)):
            return {"set": parts[1]}
        case Relation():
            return {"set": value, "inequality": value}
        case SetOperation():
            return {"set": value}
        case _:
            return {}


def _list_kinds(value: Group, items: Sequence[Value]) -> dict[str, Any]:
    """Kinds of a list without brackets, whose members may have names: x = 1, y = 2."""
    values = [_last_of_chain(item) for item in items]
    pairs = [(name_of(v.parts[0]), v.parts[-1]) for v in values if isinstance(v, Relation) and v.signs == ("=",)]
    if any(isinstance(v, Relation) and not {"=", ":"} & set(v.signs) for v in values):
        return {"set": value}
    if pairs and len(pairs) == len(values) and None not in (names := [name for name, _ in pairs]):
        bases = {re.sub(r"_\w+\Z", "", name or "") for name in names}
        if len(bases) == 1 and (bases <= UNKNOWNS or len(set(names)) < len(names)):
            return _bare_kinds([part for _, part in pairs], ordered=False)
        if len(set(names)) == len(names):
            ordered = sorted(pairs, key=lambda pair: pair[0] or "")
            return {"assignment": ordered, "tuple": [part for _, part in ordered]}
        return {}
    if len(pairs) == 1 and isinstance(values[0], Relation) and pairs[0][0] is not None:
        return _bare_kinds([pairs[0][1], *values[1:]], ordered=False)
    return {"equations": values} if pairs else _bare_kinds(values, ordered=value.link == ",")


def _bare_kinds(values: Sequence[Value], ordered: bool) -> dict[str, Any]:
    items = tuple(values)
    kinds = {"list": items, "set": Group("{", "}", items)}
    return {**kinds, "tuple": items} if ordered else kinds


def _same_members(one: Sequence[Value], other: Sequence[Value]) -> Verdict:
    """True if two sequences have equal members in the same order."""
    if len(one) != len(other):
        return False
    return _all(same(a, b) for a, b in zip(one, other, strict=True))


def _same_collection(one: Sequence[Value], other: Sequence[Value]) -> Verdict:
    """True if two sequences have equal members in any order, each as often."""
    if len(one) != len(other):
        return False
    if len(one) > _LONGEST:
        return _same_members(one, other)
    rest = list(other)
    unknown = False
    for member in one:
        verdicts = [same(member, candidate) for candidate in rest]
        if True in verdicts:
            rest.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _same_set(one: Value, other: Value) -> Verdict:
    names = variables(one), variables(other)
    if names[0] and names[1] and names[0] != names[1]:
        return False
    regions = (region(one), region(other)) if len(names[0] | names[1]) < 2 else (None, None)
    if regions[0] is not None and regions[1] is not None:
        return same_region(regions[0], regions[1])
    members = _members(one), _members(other)
    if members[0] is not None and members[1] is not None:
        return _same_collection(_distinct(members[0]), _distinct(members[1]))
    if isinstance(one, Group) and isinstance(other, Group) and None is members[0] is members[1]:
        brackets = (one.opening, one.closing) == (other.opening, other.closing)
        return brackets and {one.link, other.link} != {"and", "or"} and _same_members(one.items, other.items)
    if isinstance(one, SetOperation) and isinstance(other, SetOperation) and one.name == other.name:
        straight = _all((_same_set(one.left, other.left), _same_set(one.right, other.right)))
        if straight is True or one.name == "setminus":
            return straight
        return _all((_same_set(one.left, other.right), _same_set(one.right, other.left)))
    if isinstance(one, Relation) and isinstance(other, Relation):
        return _same_inequality(one, other)
    return regions[0] is None and regions[1] is None and one == other


def _members(value: Value) -> tuple[Value, ...] | None:
    """Members of a finite set; None for other sets."""
    match value:
        case Group("{", "}", items):
            return items
        case SetOperation("cup", left, right):
            one, other = _members(left), _members(right)
            return None if one is None or other is None else one + other
        case Relation(parts, ("in",)):
            return _members(parts[1])
        case _:
            return None


def _distinct(members: Sequence[Value]) -> list[Value]:
    found: list[Value] = []
    if len(members) > _LONGEST:
        return list(members)
    for member in members:
        if not any(same(member, other) is True for other in found):
            found.append(member)
    return found


def _same_matrix(one: Matrix, other: Matrix) -> Verdict:
    if one.determinant != other.determinant or len(one.rows) != len(other.rows):
        return False
    return _all(_same_members(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def _same_ratio(one: Sequence[Expr], other: Sequence[Expr]) -> Verdict:
    """True if the terms of two ratios are proportional."""
    if len(one) != len(other):
        return False
    return _all(
        evaluation.same_value(Apply("*", (a, other[0])), Apply("*", (b, one[0])))
        for a, b in zip(one[1:], other[1:], strict=True)
    )


def _same_assignment(one: Sequence[tuple[str, Value]], other: Sequence[tuple[str, Value]]) -> Verdict:
    if [name for name, _ in one] != [name for name, _ in other]:
        return False
    return _same_members([value for _, value in one], [value for _, value in other])


def _same_inequality(one: Relation, other: Relation) -> Verdict:
    """True if both say that the same difference is positive, up to a positive factor."""
    sides = [_positive_difference(each) for each in (one, other)]
    if sides[0] is None or sides[1] is None:
        return None if len(one.signs) == len(other.signs) and set(one.signs) == set(other.signs) else False
    if sides[0][1] != sides[1][1]:
        return False
    return _proportional(sides[0][0], sides[1][0], positive=sides[0][1] != "!=")


def _positive_difference(relation: Relation) -> tuple[Expr, str] | None:
    """a - b and the sign ">" for a > b and b < a; likewise for other signs."""
    if len(relation.signs) != 1 or relation.signs[0] not in ("<", ">", "<=", ">=", "!="):
        return None
    left, right = relation.parts
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    if relation.signs[0].startswith("<"):
        left, right = right, left
    return Apply("+", (left, Apply("neg", (right,)))), relation.signs[0].replace("<", ">")


def _same_equation(one: Relation, other: Relation) -> Verdict:
    """True if two equations are the same up to a constant factor, denominators, and the side of each term."""
    first, second = definition(one), definition(other)
    if first is not None and second is not None and (first[0] == second[0] or {first[0], second[0]} == {"y", "f(x)"}):
        verdict = same(first[1], second[1])
        if verdict is True or not isinstance(first[1], Expr) or not isinstance(second[1], Expr):
            return verdict
    parts = (*one.parts, *other.parts)
    if not all(isinstance(part, Expr) for part in parts):
        return _same_members(one.parts, other.parts)
    differences = [Apply("+", (each.parts[0], Apply("neg", (each.parts[1],)))) for each in (one, other)]  # pyright: ignore[reportArgumentType]
    above = [common_fraction(each)[0] for each in differences]
    return _proportional(above[0], above[1])


def _proportional(one: Expr, other: Expr, positive: bool = False) -> Verdict:
    """True if the ratio of two expressions is one constant, not zero."""
    if not symbols(one) or symbols(one) != symbols(other):
        return False
    shifted = [_at_other_point(each) for each in (one, other)]
    ratio = evaluation.same_value(Apply("*", (one, shifted[1])), Apply("*", (other, shifted[0])))
    if ratio is not True or evaluation.same_value(one, Number(Fraction(0))) is not False:
        return ratio and False
    if evaluation.same_value(other, Number(Fraction(0))) is not False:
        return False
    sign = evaluation.number(Apply("/", (shifted[0], shifted[1])))
    return sign is not None and (sign > 0 or not positive)


def _at_other_point(expression: Expr) -> Expr:
    """The expression with a number for each of its variables."""
    match expression:
        case Symbol(name) if symbols(expression):
            return Number(Fraction(7 + sum(map(ord, name)) % 31, 5 + len(name)))
        case Apply(name, args):
            return Apply(name, tuple(map(_at_other_point, args)))
        case _:
            return expression


def _last_of_chain(value: Value) -> Value:
    """A chain of equal parts by its last: x = 2 + 3 = 5 as x = 5, 2 + 3 = 5 as 5, and "1/4 or 0.25" as 1/4."""
    if isinstance(value, Group) and value.link == "or" and all(isinstance(item, Expr) for item in value.items):
        return value.items[0] if all(same(item, value.items[0]) is True for item in value.items[1:]) else value
    if isinstance(value, Relation) and value.signs[-1] == "~" and "~" not in value.signs[:-1]:
        exact, approximate = value.parts[-2:]
        if len(value.parts) == 2 and isinstance(exact, Expr) and symbols(exact):
            return approximate
        if not _is_near(exact, approximate):
            return value
        value = Relation(value.parts[:-1], value.signs[:-1]) if len(value.parts) > 2 else exact
    if not isinstance(value, Relation) or set(value.signs) != {"="}:
        return value
    first, *rest = value.parts
    if name_of(first) is None and not (isinstance(first, Expr) and symbols(first)):
        rest = [first, *rest]
    if all(same(part, rest[-1]) is True for part in rest[:-1]):
        if len(rest) == len(value.parts):
            return rest[-1]
        return Relation((first, rest[-1]), ("=",))
    return value


def _is_near(exact: Value, approximate: Value) -> bool:
    """True if a value without variables differs by at most 5% from an approximation."""
    if not isinstance(exact, Expr) or not isinstance(approximate, Expr):
        return False
    one, other = evaluation.number(exact), evaluation.number(approximate)
    return one is not None and other is not None and bool(abs(one - other) <= abs(one) / 20)


def _all(verdicts: Any) -> Verdict:
    """False if one is False, else None if one is unknown, else True."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


_KINDS: dict[str, Callable[[Any, Any], Verdict]] = {
    "scalar": evaluation.same_value,
    "matrix": _same_matrix,
    "list": _same_collection,
    "assignment": _same_assignment,
    "tuple": _same_members,
    "range": _same_members,
    "ratio": _same_ratio,
    "set": _same_set,
    "equations": _same_collection,
    "inequality": _same_inequality,
}
