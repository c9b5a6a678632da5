"""Word problems in English that take two to four operations, in families that differ in what has to be computed."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from r1jax.data.problems.problem import KeyedProblem, Problem, distinct

_NAMES = ("Amina", "Bruno", "Chen", "Daria", "Emeka", "Freja", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Leila")


@dataclasses.dataclass(frozen=True)
class Family:
    """Problems that differ in a name and in numbers only.

    text: the question, with {name} and the names of the numbers.
    ranges: the smallest and the largest value of each number.
    answer: the exact answer to the numbers. Numbers whose answer is no positive integer are drawn again.
    """

    text: str
    ranges: Mapping[str, tuple[int, int]]
    answer: Callable[..., Fraction | int]


FAMILIES: Mapping[str, Family] = {
    "bakery": Family(
        "{name} bakes {a} trays with {b} rolls on each tray. After {c} rolls are eaten, the others are packed into "
        "bags of {d}. How many bags are filled?",
        {"a": (3, 12), "b": (6, 24), "c": (4, 40), "d": (3, 9)},
        lambda a, b, c, d: Fraction(a * b - c, d),
    ),
    "tank": Family(
        "A water tank holds {a} litres. A pump adds {b} litres per minute while a leak loses {c} litres per minute. "
        "The tank is empty at first. After how many minutes is it full?",
        {"a": (60, 900), "b": (8, 40), "c": (1, 7)},
        lambda a, b, c: Fraction(a, b - c),
    ),
    "train": Family(
        "A train leaves with {a} passengers. At the first stop {b} get off and {c} get on. At the second stop half of "
        "the passengers get off. How many passengers are on the train then?",
        {"a": (40, 200), "b": (5, 35), "c": (5, 60)},
        lambda a, b, c: Fraction(a - b + c, 2),
    ),
    "wages": Family(
        "{name} earns {a} euros per hour and works {b} hours a day for {c} days. On each of these days a ticket for "
        "the journey costs {d} euros. How many euros are left?",
        {"a": (9, 30), "b": (3, 9), "c": (2, 20), "d": (2, 9)},
        lambda a, b, c, d: a * b * c - c * d,
    ),
    "fence": Family(
        "A rectangular meadow is {a} metres long and {b} metres wide. {name} has {c} metres of fence. How many metres "
        "are missing to fence the whole meadow {d} times?",
        {"a": (20, 90), "b": (10, 60), "c": (30, 150), "d": (1, 3)},
        lambda a, b, c, d: 2 * (a + b) * d - c,
    ),
    "ages": Family(
        "{name} is {a} years old. An aunt of {name} is {b} times as old. How old will the aunt be when {name} is {c}?",
        {"a": (4, 15), "b": (2, 5), "c": (16, 40)},
        lambda a, b, c: a * b + c - a,
    ),
    "discount": Family(
        "A coat costs {a} euros and is sold with {b} percent off. {name} pays with {c} notes of 50 euros. How many "
        "euros of change are due?",
        {"a": (40, 240), "b": (5, 60), "c": (1, 5)},
        lambda a, b, c: 50 * c - Fraction(a * (100 - b), 100),
    ),
    "reading": Family(
        "{name} reads {a} pages each day from Monday to Friday and {b} pages on each day of the weekend. How many "
        "weeks does a shelf of {c} books with {d} pages each take?",
        {"a": (5, 30), "b": (10, 60), "c": (2, 12), "d": (60, 300)},
        lambda a, b, c, d: Fraction(c * d, 5 * a + 2 * b),
    ),
    "mixture": Family(
        "A drink is mixed from {a} parts of juice and {b} parts of water. How many millilitres of juice are in {c} "
        "glasses of {d} millilitres each?",
        {"a": (2, 6), "b": (2, 9), "c": (2, 12), "d": (100, 400)},
        lambda a, b, c, d: Fraction(a * c * d, a + b),
    ),
    "seats": Family(
        "A hall has {a} rows of {b} seats. {c} seats are broken, and {d} visitors take a working seat in each row. How "
        "many working seats stay empty?",
        {"a": (8, 30), "b": (12, 40), "c": (3, 50), "d": (4, 11)},
        lambda a, b, c, d: a * b - c - a * d,
    ),
    "marbles": Family(
        "{name} has {a} marbles more than Rosa, and Rosa has {b} times as many as Tim. Tim has {c}. How many marbles "
        "do the three have together?",
        {"a": (3, 40), "b": (2, 7), "c": (4, 30)},
        lambda a, b, c: a + 2 * b * c + c,
    ),
    "mean": Family(
        "In {a} tests {name} has {b} points on average. How many points does {name} need in the next test for an "
        "average of {c}?",
        {"a": (2, 8), "b": (40, 80), "c": (50, 90)},
        lambda a, b, c: c * (a + 1) - a * b,
    ),
    "meeting": Family(
        "Two cyclists start {a} kilometres apart and ride towards each other, one at {b} and the other at {c} "
        "kilometres per hour. How many minutes pass until they meet?",
        {"a": (10, 120), "b": (10, 30), "c": (10, 30)},
        lambda a, b, c: Fraction(60 * a, b + c),
    ),
    "savings": Family(
        "{name} saves {a} euros in the first week and {b} euros more in every week than in the week before. How many "
        "euros are saved after {c} weeks?",
        {"a": (2, 30), "b": (1, 9), "c": (3, 8)},
        lambda a, b, c: Fraction(c * (2 * a + (c - 1) * b), 2),
    ),
    "legs": Family(
        "On a farm with {a} animals there are only hens and sheep. They have {b} legs together. How many sheep are "
        "there?",
        {"a": (10, 60), "b": (22, 230)},
        lambda a, b: Fraction(b - 2 * a, 2) if b < 4 * a else 0,
    ),
    "printers": Family(
        "{a} equal printers print {b} pages in {c} minutes. How many pages do {d} of them print in an hour?",
        {"a": (2, 8), "b": (40, 400), "c": (2, 15), "d": (1, 12)},
        lambda a, b, c, d: Fraction(60 * b * d, a * c),
    ),
}


def generate(seed: int) -> Iterator[KeyedProblem]:
    """Problems of all families in random order without repeats; the key is the family: whole families are held out."""
    return distinct(_draws(random.Random(seed)))


def _draws(rng: random.Random) -> Iterator[KeyedProblem]:
    while True:
        name = rng.choice(tuple(FAMILIES))
        family = FAMILIES[name]
        answer: Fraction | int = 0
        numbers: dict[str, int] = {}
        while answer <= 0 or Fraction(answer).denominator != 1:
            numbers = {letter: rng.randint(*bounds) for letter, bounds in family.ranges.items()}
            answer = family.answer(**numbers)
        question = family.text.format(name=rng.choice(_NAMES), **numbers)
        yield f"stories {name}", Problem(question, str(answer), name, "number", language="en")
