"""The part of a text that is the answer, worked by hand."""

from __future__ import annotations

import pytest

from r1jax.rewards.extraction import answer_text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{41}, no: \boxed{42}", "42"),
        (r"\boxed{41}, no: \boxed{4", "41"),
        (r"so \boxed{\frac{1}{2", ""),
        (r"\boxed{\left\{ x = 1 \right.}", r"\left\{ x = 1 \right."),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{5} million people", "5 million"),
        ("It is not $5$.", "not 5"),
        ("It is at least $5$.", "least 5"),
        ("If it is not even, then it is $5$.", "5"),
        ("There are $5$ or more.", "5 or more"),
    ],
)
def test_the_answer_is_the_last_box_or_formula_with_the_words_that_change_it(text: str, answer: str) -> None:
    assert answer_text(text) == answer
