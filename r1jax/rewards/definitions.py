"""The names that equations define: of a variable, a value of a function, a point, a set, or a sum of names."""

from __future__ import annotations

from r1jax.rewards.values import Apply, Expr, Group, Number, Relation, SetOperation, Symbol, Value, symbols

UNKNOWNS = frozenset("xyzt")  # x_1 = 2, x_2 = -3 are the solutions of an equation, a_1 = 2, a_2 = -3 are not


def name_of(value: Value) -> str | None:
    """The name that an equation defines: of a variable, of f(x), of a point (x, y); None for other values."""
    match value:
        case Symbol(name) if symbols(value):
            return name
        case Apply(name, args) if name.startswith("call ") and all(isinstance(part, Symbol | Number) for part in args):
            return (
                f"{name[5:]}({','.join(part.name if isinstance(part, Symbol) else str(part.value) for part in args)})"  # pyright: ignore[reportAttributeAccessIssue]
            )
        case SetOperation(name, Symbol(left), Symbol(right)):
            return f"{left} {name} {right}"
        case Group("(", ")", items) if all(map(name_of, items)):
            return f"({','.join(map(str, map(name_of, items)))})"
        case _:
            return None


def definition(equation: Relation) -> tuple[str, Value] | None:
    """The name that an equation defines, on either side, and its value; None for another equation."""
    left, right = equation.parts
    if (name := name_of(left)) is not None:
        return name, right
    if isinstance(right, Expr) and not symbols(right) and (terms := _plain_sum(left)) is not None:
        return "+".join(sorted(terms)), right
    return None if (name := name_of(right)) is None else (name, left)


def _plain_sum(value: Value) -> list[str] | None:
    """The names in a sum such as m + n, the quantity that a problem asks for; None for another value, as for x + y."""
    match value:
        case Symbol(name) if symbols(value) and name not in UNKNOWNS:
            return [name]
        case Apply("+", (left, right)):
            one, other = _plain_sum(left), _plain_sum(right)
            return None if one is None or other is None or set(one) & set(other) else one + other
        case _:
            return None
