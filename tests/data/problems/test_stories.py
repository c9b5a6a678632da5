"""Word problems of several operations."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice

import pytest

from r1jax.data.problems import stories
from r1jax.data.problems.dataset import ProblemsConfig, load_problems

# Worked by hand from the text of each family.
ANSWERS = {
    "bakery": ((6, 22, 30, 6), 17),  # 132 rolls, 102 left, 17 bags
    "tank": ((120, 14, 4), 12),  # 10 litres per minute
    "train": ((89, 26, 33), 48),  # 96 passengers
    "wages": ((10, 5, 4, 3), 188),  # 200 less 12
    "fence": ((28, 26, 45, 2), 171),  # 108 metres around
    "ages": ((12, 3, 18), 42),  # 36 and six years more
    "discount": ((80, 25, 2), 40),  # 60 of 100
    "reading": ((10, 25, 4, 75), 3),  # 100 pages a week, 300 pages
    "mixture": ((2, 3, 5, 100), 200),  # two fifths of 500
    "seats": ((10, 20, 15, 5), 135),  # 200 less 15 less 50
    "marbles": ((5, 2, 4), 25),  # 4, 8 and 13
    "mean": ((3, 72, 78), 96),  # 312 less 216
    "meeting": ((20, 15, 25), 30),  # 40 kilometres per hour
    "savings": ((10, 5, 4), 70),  # 10, 15, 20 and 25
    "legs": ((10, 26), 3),  # 7 hens have 14 legs, 3 sheep have 12
    "printers": ((2, 100, 10, 3), 900),  # 300 pages by each in an hour
}


@pytest.mark.parametrize("name", stories.FAMILIES)
def test_answers_are_those_worked_by_hand(name: str) -> None:
    numbers, answer = ANSWERS[name]
    family = stories.FAMILIES[name]
    assert family.answer(**dict(zip(family.ranges, numbers, strict=True))) == answer
    assert re.findall(r"{([a-d])}", family.text) == sorted(family.ranges)  # the order of the text


def test_problems_have_whole_positive_answers_and_all_numbers_in_the_text() -> None:
    drawn = list(islice(stories.generate(seed=0), 400))
    assert {key for key, _ in drawn} == {f"stories {name}" for name in stories.FAMILIES}
    assert len({problem.question for _, problem in drawn}) == 400
    for _, problem in drawn:
        assert int(problem.answer) > 0 and "{" not in problem.question
        family = stories.FAMILIES[problem.kind]
        numbers = [int(n) for n in re.findall(r"[0-9]+", problem.question)]
        numbers = [n for n in numbers if n != 50] if problem.kind == "discount" else numbers
        if len(numbers) == len(family.ranges):  # a drawn 50 is dropped, too
            assert Fraction(family.answer(**dict(zip(family.ranges, numbers, strict=True)))) == int(problem.answer)


def test_whole_families_are_held_out() -> None:
    problems = load_problems(ProblemsConfig("stories", train_size=200, held_out_size=200, held_out_share=0.5))
    train, held_out = ({p.kind for p in side} for side in (problems.train, problems.held_out))
    assert len(train) > 3 and len(held_out) > 3 and not train & held_out
