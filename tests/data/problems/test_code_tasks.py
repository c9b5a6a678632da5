"""Generated code problems: solutions that are written differently pass, and whole families are held out."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import islice

import pytest

from r1jax.data.problems.code_families import FAMILIES
from r1jax.data.problems.code_tasks import generate, make_problem
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.rewards.code.tests import read_tests

# Solutions in another style than those of the package, by the start of the question's text.
SOLUTIONS = {
    "returns the elements of a list that are greater than {k},": "[x + x for x in items if not x <= k]",
    "returns the sum of the digits of a non-negative integer, times {k}.": "sum(int(c) for c in str(n)) * k",
    "returns the sorted list of all positive divisors": "[i for i in range(1, n + 1) if not n % i]",
    "rotates a matrix": "[[r[i] for r in reversed(matrix)] for i in range(len(matrix[0]))]",
    "compresses a text": "__import__('re').sub(r'(.)\\1*', lambda m: m[1] + str(len(m[0])), text)",
    "returns the number of primes": "sum(all(i % j for j in range(2, i)) for i in range(2, n + 1))",
    "sorts a list of words by length": "sorted(sorted(words), key=len)",
    "returns the final position": "tuple(sum({p: 1, m: -1}.get(c, 0) for c in moves) for p, m in ('RL', 'UD'))",
    "converts a number of seconds": "'%d:%02d:%02d' % (seconds // 3600, seconds % 3600 // 60, seconds % 60)",
    "returns True if a year": "__import__('calendar').isleap(year)",
    "moves each letter of a text {k} places": (
        "text.translate({ord(c): chr((ord(c) - b + k) % 26 + b) for b in (65, 97) for c in map(chr, range(b, b + 26))})"
    ),
    "merges two dictionaries": "{k: a.get(k, 0) + b.get(k, 0) for k in set(a) | set(b)}",
    "evaluates a text with integers": "eval(__import__('re').sub(r'\\b0+(\\d)', r'\\1', text))",
    "adds {k} minutes": "'%02d:%02d' % divmod((int(time.split(':')[0]) * 60 + int(time.split(':')[1]) + k) % 1440, 60)",
    "returns the length of the longest run of equal elements": (
        "max([len(m[0]) for m in __import__('re').finditer(r'(.)\\1*', ''.join(map(str, items)))] or [0])"
    ),
    "returns the number of ones in the binary form": "n.bit_count()",
}


@pytest.fixture(scope="module")
def generated():
    return list(islice(generate(3), 100))


@pytest.mark.parametrize("start", SOLUTIONS)
def test_another_solution_gives_the_same_values(start):
    family, template = next((f, t) for f, rows in FAMILIES.items() for t in rows if t.text.startswith(start))
    problem = make_problem(family, template, random.Random(0))
    found = re.search(
        re.escape(template.text).replace(r"\{k\}", "([0-9]+)", 1).replace(r"\{k\}", "[0-9]+"), problem.question
    )
    k = int(found[1]) if found.groups() else 0
    solve = eval(f"lambda {template.signature}: {SOLUTIONS[start]}", {"k": k})
    tests = read_tests(problem.metadata).single
    assert len(tests) >= 5
    for test in tests:
        value = solve(*test.arguments)
        assert value == test.expected and type(value) is type(test.expected)


def test_every_template_makes_problems_with_different_tests():
    for family, templates in FAMILIES.items():
        assert len(templates) >= 4
        for template in templates:
            tests = read_tests(make_problem(family, template, random.Random(0)).metadata).single
            given = [json.dumps(test.arguments) for test in tests]
            assert len(given) == len(set(given)) >= 5, template.text
            # A constant passes few of the tests, and none of them all.
            most = Counter(repr(test.expected) for test in tests).most_common(1)[0][1]
            assert most <= 6 and most < len(tests), template.text


def test_the_examples_are_two_of_the_tests(generated):
    for _, problem in generated[:50]:
        tests = {
            f"solve({', '.join(map(repr, t.arguments))}) returns {t.expected!r}"
            for t in read_tests(problem.metadata).single
        }
        shown = problem.question.partition("Examples:\n")[2].splitlines()
        assert len(shown) == 2 and set(shown) <= tests and len(tests) > 2


def test_whole_families_are_held_out():
    found = load_problems(ProblemsConfig(source="code", held_out_share=0.25, train_size=300, held_out_size=100))
    train, held_out = ({p.kind for p in side} for side in (found.train, found.held_out))
    assert len(train) > 10 and len(held_out) > 3 and not train & held_out
    assert {p.checker for p in found.train} == {"code"} and len({p.question for p in found.train}) == 300


def test_the_seed_alone_decides():
    first, again, other = (list(islice(generate(seed), 20)) for seed in (1, 1, 2))
    assert first == again != other
