"""Arithmetic problems, and which of them are held out."""

from __future__ import annotations

import itertools

import pytest

from r1jax.data.problems import arithmetic
from r1jax.data.problems.dataset import ProblemsConfig, load_problems


@pytest.mark.parametrize(("digits", "operations", "terms"), [(1, "+*", 2), (2, "+-", 2), (3, "-*", 3), (6, "+-*", 4)])
def test_arithmetic_has_the_digits_operations_and_terms_of_its_config(digits: int, operations: str, terms: int) -> None:
    problems = load_problems(ProblemsConfig("arithmetic", None, digits, operations, terms, 300, 30))
    assert (len(problems.train) == 300 or digits == 1) and problems.held_out
    for problem in problems.train + problems.held_out:
        words = problem.question.split(" ")
        assert int(problem.answer) == eval(problem.question)  # Python's own arithmetic
        assert len(words[::2]) == terms and set(words[1::2]) <= set(operations)
        assert all(len(number) == digits for number in words[::2])
    assert {sign for p in problems.train for sign in p.question if sign in "+-*"} == set(operations)


def test_a_small_space_is_listed_completely() -> None:
    problems = load_problems(ProblemsConfig(digits=1, operations="+*"))
    questions = sorted(p.question for p in problems.train + problems.held_out)
    assert questions == sorted(f"{a} {sign} {b}" for a in range(10) for b in range(10) for sign in "+*")


def test_a_large_space_is_sampled_without_repeats() -> None:
    problems = load_problems(ProblemsConfig(digits=3, operations="+", train_size=2000))
    assert len(set(problems.train)) == 2000


def commuted(question: str) -> set[str]:
    """All orders of the numbers of a sum or of a product, computed independently of the package."""
    numbers, sign = question.split(" ")[::2], question.split(" ")[1]
    return {f" {sign} ".join(order) for order in itertools.permutations(numbers)}


@pytest.mark.parametrize(("operations", "terms"), [("+", 2), ("*", 2), ("+", 3)])
def test_no_form_of_a_held_out_problem_is_ever_trained_on(operations: str, terms: int) -> None:
    train, held_out = set(), set()
    for seed, sizes, digits in itertools.product((0, 1, 2), ((50, 50), (2000, 500)), (1, 2)):
        config = ProblemsConfig("arithmetic", None, digits, operations, terms, *sizes, seed=seed)
        problems = load_problems(config)
        train |= {p.question for p in problems.train}
        held_out |= {p.question for p in problems.held_out}
    assert not train & set.union(*map(commuted, held_out))
    assert all(map(arithmetic.is_held_out, held_out)) and not any(map(arithmetic.is_held_out, train))


def test_the_order_and_the_overall_sign_of_terms_do_not_matter() -> None:
    for a, b, c in itertools.product(range(10, 40), range(10, 20), (7, 21)):
        sides = {
            arithmetic.is_held_out(question)
            for question in (f"{a} * {b} - {c} + 5", f"{b} * {a} + 5 - {c}", f"5 - {c} + {a} * {b}")
        }
        assert len(sides) == 1
    # b - a is worked out as a - b.
    differences = [
        (arithmetic.is_held_out(f"{a} - {b}"), arithmetic.is_held_out(f"{b} - {a}"))
        for a in range(60)
        for b in range(a)
    ]
    assert all(x == y for x, y in differences) and {x for x, _ in differences} == {True, False}


def test_the_split_never_changes() -> None:
    # A literal list: with another split, problems that an older run trained on would be held out.
    held_out = [f"{a} + {b}" for a in range(10) for b in range(a, 10) if arithmetic.is_held_out(f"{a} + {b}")]
    assert held_out == ["0 + 8", "1 + 8", "2 + 5", "2 + 7", "3 + 4", "3 + 6", "5 + 5", "9 + 9"]


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_share_is_accurate(share: float) -> None:
    questions = [f"{a} + {b}" for a in range(200) for b in range(a, 200)]  # 20,100
    count = sum(arithmetic.is_held_out(question, share) for question in questions)
    assert abs(count / len(questions) - share) < 0.02  # five standard deviations


def test_a_text_that_is_not_arithmetic_is_refused() -> None:
    for question in ("3 + x", "3 +", "+ 3", "3 + 4 = ?", ""):
        with pytest.raises(ValueError, match="whole numbers"):
            arithmetic.is_held_out(question)
