"""Small functions to write, with tests that our own solutions computed, in families that are held out whole.

A family is a subject with several templates; each template has a text, a solution and random arguments. The key of a
problem is its family, so a held-out problem differs from all training problems in its subject and not in its numbers
alone.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from r1jax.data.problems.code_families import FAMILIES
from r1jax.data.problems.code_families.template import Family, Template
from r1jax.data.problems.problem import KeyedProblem, Problem, distinct

CASES = 10  # tests of a problem
_ALIKE = 6  # of them may have the same value, so that a constant does not pass
_SHOWN = 2  # of them in the question


def generate(seed: int) -> Iterator[KeyedProblem]:
    """Problems of all families in random order without repeats; the key of each is its family."""
    return distinct(_draws(FAMILIES, random.Random(seed)))


def make_problem(family: str, template: Template, rng: random.Random) -> Problem:
    """A problem of a template with drawn settings and tests, of which two are examples in the question."""
    settings = {name: rng.choice(values) for name, values in template.settings().items()}
    cases: list[tuple[list[Any], Any]] = []
    for _ in range(40 * CASES):
        given = [draw(rng) for draw in template.draws]
        value = template.solve(*copy.deepcopy(given), **settings)
        if any(given == seen for seen, _ in cases) or sum(value == other for _, other in cases) >= _ALIKE:
            continue
        cases.append((given, value))
        if len(cases) == CASES:
            break
    # Examples with different values say more than two that are alike.
    first = cases[0]
    other = next((case for case in cases[1:] if case[1] != first[1]), cases[1])
    shown = [first, other][:_SHOWN]
    examples = "\n".join(f"solve({', '.join(map(repr, given))}) returns {value!r}" for given, value in shown)
    text = template.text.format(**settings)
    question = f"Write a Python function `solve({template.signature})` that {text}\n\nExamples:\n{examples}"
    tests = {
        "function": "solve",
        "cases": [{"args": [_plain(one) for one in given], "expected": _plain(value)} for given, value in cases],
    }
    return Problem(question, "", f"code-{family}", "code", json.dumps(tests), "en")


def _draws(families: dict[str, Family], rng: random.Random) -> Iterator[KeyedProblem]:
    names = list(families)
    while True:
        family = rng.choice(names)
        yield f"code {family}", make_problem(family, rng.choice(families[family]), rng)


def _plain(value: Any) -> Any:
    """A value as the metadata of a code problem writes it."""
    if isinstance(value, tuple):
        return {"tuple": [_plain(inner) for inner in value]}
    if isinstance(value, set):
        return {"set": [_plain(inner) for inner in sorted(value)]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(inner)] for key, inner in value.items()]}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
