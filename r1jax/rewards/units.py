"""Conversion between units of one dimension, and quantities written in several units."""

from __future__ import annotations

import re
from fractions import Fraction

from r1jax.data.text.numbers import read_number, unit_of

# Each unit as a multiple of the first of its dimension. Currencies, temperatures and calendar months do not convert.
_DIMENSIONS = (
    {"m": "1", "mm": "0.001", "cm": "0.01", "dm": "0.1", "km": "1000", "inch": "0.0254", "ft": "0.3048"}
    | {"yd": "0.9144", "mi": "1609.344"},
    {"g": "1", "mg": "0.001", "kg": "1000", "t": "1000000", "lb": "453.59237", "oz": "28.349523125"},
    {"s": "1", "ms": "0.001", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
    {"month": "1", "year": "12"},
    {"l": "1", "ml": "0.001"},
    {"$": "1", "¢": "0.01"},
)
_FACTORS = {name: (at, Fraction(size)) for at, units in enumerate(_DIMENSIONS) for name, size in units.items()}
_ALIASES = {"mph": "mi/h", "£": "lb"}  # "pounds" may be either
_POWER = re.compile(r"(.*?)(-?[1-9])?")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:\\text ?\{ ?)?([A-Za-z]+)(?: ?\})?(?: ?(?:,|and) ?| |\Z)")


def ratio(unit: str, other: str) -> Fraction | None:
    """The number of other units in one unit, as 1000 for "km" and "m"; None if they measure different things.

    unit, other: in the spelling of r1jax.data.text.numbers.unit_of.
    """
    one, two = _resolve(unit), _resolve(other)
    return one[1] / two[1] if one is not None and two is not None and one[0] == two[0] else None


def _resolve(unit: str) -> tuple[dict[object, int], Fraction] | None:
    """Powers of the dimensions of a unit, and its size; a unit without conversions is a dimension of its own."""
    powers: dict[object, int] = {}
    size = Fraction(1)
    for side, text in enumerate(_ALIASES.get(unit, unit).split("/")):
        match = _POWER.fullmatch(text)
        if match is None or not match[1]:
            return None
        power = int(match[2] or 1) * (-1 if side else 1)
        dimension, factor = _FACTORS.get(match[1], (match[1], Fraction(1)))
        powers[dimension] = powers.get(dimension, 0) + power
        size *= factor**power
    return powers, size


def read_parts(text: str) -> tuple[Fraction, str] | None:
    """The sum of a quantity in several units, as 90 and "min" for "1 hour 30 min"; None for another text."""
    total, last, at, parts = Fraction(0), "", 0, 0
    while at < len(text):
        match = _PART.match(text, at)
        number = read_number(match[1]) if match else None
        unit = unit_of({"in": "inch"}.get(match[2], match[2])) if match else ""
        if match is None or number is None or not unit:
            return None
        factor = ratio(last, unit) if last else Fraction(1)
        if factor is None or factor <= 0 or (last and factor <= 1):
            return None
        total, last, at, parts = total * factor + number.value, unit, match.end(), parts + 1
    return (total, last) if parts > 1 else None
