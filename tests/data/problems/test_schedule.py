"""The problems that each step asks."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest

from r1jax.data.problems.problem import Problem
from r1jax.data.problems.schedule import problem_batch, warn_of_repeats

PROBLEMS = tuple(Problem(str(i), str(i), "test") for i in range(30))


def numbers(*args: Any, **kwargs: Any) -> list[int]:
    return [int(problem.question) for problem in problem_batch(PROBLEMS, *args, **kwargs)]


def test_batches_go_through_epochs_without_repeats() -> None:
    walk = [n for step in range(12) for n in numbers(step, 5, seed=3)]
    first, second = walk[:30], walk[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second and first != list(range(30))


def test_a_batch_depends_on_its_arguments_alone() -> None:
    assert numbers(1000, 7, seed=3) == numbers(1000, 7, seed=3)
    assert numbers(4, 7, seed=3) != numbers(4, 7, seed=4)


@pytest.mark.parametrize("size", [1, 7, 16, 29, 30])
def test_a_step_repeats_no_problem_and_all_are_asked_equally_often(size: int) -> None:
    """This holds at the ends of epochs too: with 30 problems and most sizes, an epoch ends within a step."""
    asked: Counter[int] = Counter({i: 0 for i in range(30)})
    for step in range(60):
        batch = numbers(step, size, seed=1)
        assert len(set(batch)) == size
        asked.update(batch)
        assert max(asked.values()) - min(asked.values()) <= 1
    assert numbers(0, size, seed=1) != numbers(0, size, seed=2)


@pytest.mark.parametrize("size", [4, 7, 10])
def test_attempts_of_a_step_are_distinct_and_each_covers_all_problems(size: int) -> None:
    """Later attempts do not change the first ones, so all problems are asked equally often either way."""
    seen: list[Counter[int]] = [Counter({i: 0 for i in range(30)}) for _ in range(3)]
    for step in range(60):
        batches = [numbers(step, size, seed=3, attempt=a, attempts_per_step=3) for a in range(3)]
        assert batches[0] == numbers(step, size, seed=3)
        assert len({n for batch in batches for n in batch}) == 3 * size
        for counter, batch in zip(seen, batches, strict=True):
            counter.update(batch)
    assert all(max(counter.values()) - min(counter.values()) <= 2 for counter in seen)


def test_an_order_continues_when_the_size_of_steps_changes() -> None:
    asked: Counter[int] = Counter({i: 0 for i in range(30)})
    for step in range(50):
        batch = numbers(step, 8, seed=1) if step < 9 else numbers(step, 3, seed=1, earlier=[8] * 9)
        assert len(set(batch)) == len(batch)
        asked.update(batch)
        assert max(asked.values()) - min(asked.values()) <= 1


def test_a_step_that_asks_for_more_problems_than_there_are_repeats_them_with_a_warning() -> None:
    asked = Counter(numbers(3, 70, seed=0))
    assert set(asked) == set(range(30)) and max(asked.values()) - min(asked.values()) == 1
    with pytest.warns(UserWarning, match="asks for 70 problems but there are only 30.*lower rl.prompts"):
        warn_of_repeats(PROBLEMS, 70, "rl.prompts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_repeats(PROBLEMS, 30, "rl.prompts")
