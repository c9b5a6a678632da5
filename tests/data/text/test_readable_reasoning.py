"""Reasoning rewritten by rules, and the prompt of a model that rewrites it."""

import pytest

from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.readable_reasoning import PROMPT, make_readable, readable_response, rewriting_prompt
from tests.helpers.problems import EN, R1, ZH


@pytest.mark.parametrize(
    ("problem", "reasoning", "expected"),
    [
        (EN, "个位: 7+8=15，进 1。tens: 3+4+1=8.", "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8."),
        (ZH, "ones: 7+8=15, carry 1. 十位: 3+4+1=8。", "我算个位: 7+8=15，进 1。我算十位: 3+4+1=8。"),
        (ZH, "I work the ones: 7+8=15, carry 1. 我算十位: 3+4+1=8。", "我算个位: 7+8=15，进 1。我算十位: 3+4+1=8。"),
        (EN, "我算个位: 7+8=15，进 1。tens: 3+4+1=8.", "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8."),
        (
            EN,
            "ones: 7+8=15, carry 1. wait, again. tens: 3+4+1=8.",
            "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8.",
        ),
    ],
)
def test_rewriting_brings_reasoning_into_the_language_of_the_question(problem, reasoning, expected):
    assert make_readable(problem, reasoning) == expected
    assert fault(problem, expected, ReadabilityConfig()) is None
    text = readable_response(problem, expected, "85")
    assert R1.well_formed(text) and R1.answer(text) == "85" and R1.reasoning(text) == expected


def test_rewriting_leaves_unknown_words_for_the_filter():
    assert fault(EN, make_readable(EN, "很简单。"), ReadabilityConfig()) == "mixed language"


def test_rewriting_keeps_paragraphs_and_words_that_contain_a_phrase():
    text = "I add the bones.\n\nThen more, carry 1 on.\n\nSo 3."
    assert make_readable(EN, text) == text
    assert make_readable(ZH, "bones of lonestar: 3") == "bones of lonestar: 3"


def test_the_prompt_of_a_rewriting_model_names_all_it_needs():
    assert rewriting_prompt("{question}|{reasoning}|{language}|{x}", ZH, "{question}") == (
        f"{ZH.question}|{{question}}|Chinese|{{x}}"
    )
    assert all(part in rewriting_prompt(PROMPT, EN, "7+8=15") for part in (EN.question, "7+8=15", "English"))
