"""Word problems in two languages."""

import itertools
import random
import re

from r1jax.data.problems.problem import LANGUAGES
from r1jax.data.problems.word_problems import word_problem
from r1jax.data.text.language import consistency
from tests.helpers.problems import WORDS


def test_word_problems_are_in_both_languages_and_kinds_and_no_numbers_are_on_both_sides():
    for side in (WORDS.train, WORDS.held_out):
        assert {(p.language, p.kind) for p in side} == set(itertools.product(LANGUAGES, ("sum", "story")))

    def numbers(problem):
        return frozenset(re.findall(r"\d+", problem.question)), abs(int(problem.answer))

    assert not {numbers(p) for p in WORDS.train} & {numbers(p) for p in WORDS.held_out}
    for problem in WORDS.train[:300]:
        assert consistency(problem.question, problem.language) == 1
        assert int(problem.answer) >= 0 or problem.kind == "sum"


def test_the_answer_of_a_story_is_its_sum():
    for operation, expected in (("+", {"12"}), ("-", {"4", "-4"})):
        problems = [word_problem(random.Random(i), 4, 8, operation, "en")[1] for i in range(20)]
        assert {p.answer for p in problems} == expected
