"""Faults that make reasoning hard to read."""

import pytest

from r1jax.data.text.readability import ReadabilityConfig, fault, repetition
from tests.helpers.problems import EN, ZH


@pytest.mark.parametrize(
    ("problem", "reasoning", "expected"),
    [
        (EN, "I add the ones and then the tens.", None),
        (ZH, "我先算个位，再算十位。", None),
        (EN, "I add the 个位 and then the tens.", "mixed language"),
        (ZH, "I add the ones.", "mixed language"),
        (EN, None, "format"),
        (EN, "", "format"),
        (EN, "word " * 300, "long paragraph"),
        (EN, "so I write\n```\nprint(85)\n```", "code"),
        (EN, "import numpy, then add", "code"),
        (EN, "one two three four five six seven eight nine. " * 4, "repetition"),
    ],
)
def test_each_fault_is_found(problem, reasoning, expected):
    assert fault(problem, reasoning, ReadabilityConfig()) == expected


def test_a_long_text_in_short_paragraphs_is_no_long_paragraph():
    paragraphs = "\n\n".join(f"step {i} has its own words number {i * 7}" for i in range(60))
    assert len(paragraphs) > 1200 and fault(EN, paragraphs, ReadabilityConfig()) is None


def test_repetition_is_the_share_of_runs_seen_before():
    assert repetition("a b c d", n=2) == 0
    assert repetition("a b a b", n=2) == pytest.approx(1 / 3)  # ab, ba, ab
    assert repetition("一二一二", n=2) == pytest.approx(1 / 3)
    assert repetition("a", n=2) == 0
