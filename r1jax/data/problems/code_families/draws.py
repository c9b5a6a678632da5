"""Random arguments for the functions of generated code problems."""

from __future__ import annotations

import random
from typing import Any

from r1jax.data.problems.code_families.template import Draw

WORDS = [
    "apple",
    "bird",
    "cloud",
    "desk",
    "eagle",
    "forest",
    "garden",
    "house",
    "island",
    "jungle",
    "kettle",
    "lemon",
    "moon",
    "night",
    "ocean",
    "paper",
    "queen",
    "river",
    "stone",
    "table",
    "under",
    "violet",
    "water",
    "yellow",
    "zebra",
    "level",
    "noon",
    "radar",
    "Anna",
    "Civic",
    "book",
    "tree",
    "moss",
    "letter",
    "happy",
]


def integer(low: int = 0, high: int = 100) -> Draw:
    """An integer of a range."""
    return lambda rng: rng.randint(low, high)


def integers(low: int = -9, high: int = 20, least: int = 0, most: int = 8) -> Draw:
    """A list of integers."""
    return lambda rng: [rng.randint(low, high) for _ in range(rng.randint(least, most))]


def word(rng: random.Random) -> str:
    """A word, sometimes with a capital or in capitals."""
    one = rng.choice(WORDS)
    return rng.choice([one, one, one.capitalize(), one.upper()])


def words(least: int = 0, most: int = 6) -> Draw:
    """A list of words in lower case."""
    return lambda rng: [rng.choice(WORDS).lower() for _ in range(rng.randint(least, most))]


def sentence(least: int = 1, most: int = 6) -> Draw:
    """Words with single spaces between them."""
    return lambda rng: " ".join(word(rng) for _ in range(rng.randint(least, most)))


def letters(alphabet: str, least: int = 0, most: int = 10) -> Draw:
    """A text of random characters."""
    return lambda rng: "".join(rng.choice(alphabet) for _ in range(rng.randint(least, most)))


def counts(rng: random.Random) -> dict[str, int]:
    """A dictionary from words to small numbers."""
    return {rng.choice(WORDS): rng.randint(0, 9) for _ in range(rng.randint(0, 5))}


def pairs(rng: random.Random) -> list[list[Any]]:
    """A list of pairs of a word and a number."""
    return [[rng.choice(WORDS[:6]), rng.randint(0, 9)] for _ in range(rng.randint(0, 6))]


def matrix(rng: random.Random) -> list[list[int]]:
    """Rows of equal length."""
    rows, columns = rng.randint(1, 4), rng.randint(1, 4)
    return [[rng.randint(0, 9) for _ in range(columns)] for _ in range(rows)]


def square(rng: random.Random) -> list[list[int]]:
    """A matrix with as many rows as columns."""
    size = rng.randint(1, 4)
    return [[rng.randint(0, 9) for _ in range(size)] for _ in range(size)]


ITEMS = (integers(),)
TEXT = (sentence(),)
SMALL = range(2, 8)
