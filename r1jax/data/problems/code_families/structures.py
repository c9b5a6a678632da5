"""Families about dictionaries, matrices, formats and simulations."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from r1jax.data.problems.code_families.draws import (
    ITEMS,
    WORDS,
    counts,
    integer,
    integers,
    letters,
    matrix,
    pairs,
    square,
    words,
)
from r1jax.data.problems.code_families.template import Family, Template


def _grouped(items: list[Any], key: Any) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _walk(moves: str) -> tuple[int, int]:
    return moves.count("R") - moves.count("L"), moves.count("U") - moves.count("D")


def _account(changes: list[int], k: int) -> int:
    balance = k
    for change in changes:
        if balance + change >= 0:
            balance += change
    return balance


STRUCTURES: dict[str, Family] = {
    "dictionaries": (
        Template(
            "returns a dictionary from each word of a list to the number of times it occurs.",
            "words",
            lambda x: dict(Counter(x)),
            (words(0, 8),),
        ),
        Template(
            "returns the keys of a dictionary whose values are at least {k}, sorted.",
            "counts",
            lambda d, k: sorted(key for key, n in d.items() if n >= k),
            (counts,),
            range(2, 8),
        ),
        Template(
            "returns a dictionary from word lengths to the lists of words with that length, in the order of the "
            "given list.",
            "words",
            lambda x: _grouped(x, len),
            (words(),),
        ),
        Template(
            "adds up the numbers of each name in a list of [name, number] pairs and returns a dictionary from "
            "names to sums.",
            "pairs",
            lambda x: {name: sum(n for _, n in group) for name, group in _grouped(x, lambda p: p[0]).items()},
            (pairs,),
        ),
        Template(
            "merges two dictionaries; values of keys that are in both are added.",
            "a, b",
            lambda a, b: {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}},
            (counts, counts),
        ),
        Template(
            "returns a dictionary with each value of the given dictionary increased by {k}.",
            "counts",
            lambda d, k: {key: n + k for key, n in d.items()},
            (counts,),
            range(1, 9),
        ),
    ),
    "parsing": (
        Template(
            'reads a text such as "a=1;b=20" and returns a dictionary from the names to the integers. An empty '
            "text gives an empty dictionary.",
            "text",
            lambda t: {p.split("=")[0]: int(p.split("=")[1]) for p in t.split(";") if p},
            (lambda rng: ";".join(f"{name}={rng.randint(0, 30)}" for name in set(words(0, 4)(rng))),),
        ),
        Template(
            "returns the sum of all integers that are words of a text; other words are ignored.",
            "text",
            lambda t: sum(int(x) for x in t.split() if x.isdigit()),
            (
                lambda rng: " ".join(
                    rng.choice([rng.choice(WORDS), str(rng.randint(0, 99))]) for _ in range(rng.randint(1, 7))
                ),
            ),
        ),
        Template(
            'evaluates a text with integers that are added and subtracted, such as "12+3-4".',
            "text",
            lambda t: sum(int(x) for x in re.findall(r"[+-]?\d+", t)),
            (
                lambda rng: (
                    str(rng.randint(0, 30))
                    + "".join(rng.choice("+-") + str(rng.randint(0, 30)) for _ in range(rng.randint(0, 4)))
                ),
            ),
        ),
        Template(
            'converts a time such as "2h 5m" to minutes. The text has hours and minutes in this order.',
            "text",
            lambda t: 60 * int(t.split("h")[0]) + int(t.split()[1][:-1]),
            (lambda rng: f"{rng.randint(0, 23)}h {rng.randint(0, 59)}m",),
        ),
        Template(
            "returns the file extension of a name without the dot, in lower case, or an empty text if there is no dot.",
            "name",
            lambda t: t.rpartition(".")[2].lower() if "." in t else "",
            (lambda rng: rng.choice(WORDS) + rng.choice(["", ".txt", ".PY", ".tar.gz", ".Md", ".jpeg"]),),
        ),
        Template(
            'converts a name in snake_case to camelCase: "one_two_three" becomes "oneTwoThree".',
            "name",
            lambda t: t.split("_")[0] + "".join(map(str.capitalize, t.split("_")[1:])),
            (lambda rng: "_".join(words(1, 4)(rng)),),
        ),
    ),
    "matrices": (
        Template(
            "returns the transpose of a matrix that is given as a list of rows.",
            "matrix",
            lambda m: [list(r) for r in zip(*m, strict=True)],
            (matrix,),
        ),
        Template(
            "returns the list of the sums of the rows of a matrix, each plus {k}.",
            "matrix",
            lambda m, k: [sum(r) + k for r in m],
            (matrix,),
            range(0, 5),
        ),
        Template(
            "returns the sum of the elements on the main diagonal of a square matrix.",
            "matrix",
            lambda m: sum(m[i][i] for i in range(len(m))),
            (square,),
        ),
        Template(
            "rotates a matrix, given as a list of rows, by 90 degrees clockwise.",
            "matrix",
            lambda m: [list(r) for r in zip(*m[::-1], strict=True)],
            (matrix,),
        ),
        Template(
            "returns the list of the largest elements of the columns of a matrix.",
            "matrix",
            lambda m: [max(c) for c in zip(*m, strict=True)],
            (matrix,),
        ),
        Template(
            "counts the elements of a matrix that are greater than {k}.",
            "matrix",
            lambda m, k: sum(n > k for r in m for n in r),
            (matrix,),
            range(1, 8),
        ),
    ),
    "simulations": (
        Template(
            "returns the final position (x, y) as a tuple of a robot that starts at (0, 0) and makes moves: R "
            "adds 1 to x, L subtracts 1, U adds 1 to y, D subtracts 1.",
            "moves",
            _walk,
            (letters("RLUD", 0, 9),),
        ),
        Template(
            "starts with a balance of {k} and applies a list of changes in order, but skips each change that "
            "would make the balance negative. It returns the final balance.",
            "changes",
            _account,
            (integers(-15, 10),),
            range(5, 20, 5),
        ),
        Template(
            'lets a counter start at 0 and go through a text: "+" adds {k}, "-" subtracts 1, and "0" sets it to '
            "0. It returns the final value.",
            "text",
            lambda t, k: t.rpartition("0")[2].count("+") * k - t.rpartition("0")[2].count("-"),
            (letters("++-0", 0, 9),),
            range(1, 6),
        ),
        Template(
            "removes every {k}th element of a list (positions {k}, 2 * {k}, ... counted from 1) and returns the "
            "others.",
            "items",
            lambda x, k: [n for i, n in enumerate(x, 1) if i % k],
            ITEMS,
            range(2, 5),
        ),
        Template(
            "splits n coins of 1 into as few coins of 1, 5, {k} and 50 as possible by always taking the largest "
            "that fits, and returns the number of coins.",
            "n",
            lambda n, k: n // 50 + n % 50 // k + n % 50 % k // 5 + n % 50 % k % 5,
            (integer(0, 200),),
            (10, 20, 25),
        ),
    ),
}
