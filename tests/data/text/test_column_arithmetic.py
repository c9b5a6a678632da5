"""Arithmetic in columns, in words."""

import random

import pytest

from r1jax.data.text.column_arithmetic import work_columns
from r1jax.data.text.language import words


@pytest.mark.parametrize("operation", "+-")
@pytest.mark.parametrize("languages", [("en",), ("zh",), ("zh", "en")])
def test_columns_give_the_right_result_in_every_language_unless_there_is_a_slip(operation, languages):
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.randint(0, 999), rng.randint(0, 999)
        text, value = work_columns(a, b, operation, languages=languages)
        assert value == (a + b if operation == "+" else a - b)
        assert {language for _, language in words(text)} <= set(languages)
        assert work_columns(a, b, operation, slip=0, languages=languages)[1] != value


def test_columns_are_written_out_as_by_hand():
    assert work_columns(37, 48, "+") == ("ones: 7+8=15, carry 1. tens: 3+4+1=8.", 85)
    assert work_columns(37, 48, "+", languages=("zh",)) == ("个位: 7+8=15，进 1。十位: 3+4+1=8。", 85)
    assert work_columns(52, 17, "-", languages=("zh", "en")) == ("个位: 12-7=5，借 1。tens: 4-1=3.", 35)
