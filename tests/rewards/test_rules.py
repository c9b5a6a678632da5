"""The built-in rewards."""

from __future__ import annotations

import dataclasses

import pytest

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES, find_template
from r1jax.rewards.base import Completion
from r1jax.rewards.rules import RULES, accuracy, format, length
from tests.rewards.helpers import SUM, answered, completion


def test_a_missing_answer_is_wrong() -> None:
    assert accuracy(SUM, completion("<think>85</think>")) == 0
    assert accuracy(SUM, completion("<think>85</think><answer>85</answer><answer>85</answer>")) == 0
    assert accuracy(Problem("q", "", "test", "exact"), completion("<think>85</think>")) == 0
    assert accuracy(SUM, completion("85", template="number")) == 1


@pytest.mark.parametrize(("template", "text"), [("number", "it is 8"), ("steps", "7 + 8 = 15. The answer is 8")])
def test_a_number_that_the_length_limit_may_have_cut_is_no_answer(template: str, text: str) -> None:
    cut = Completion(text, tokens=20, limit=20, finished=False, template=TEMPLATES[template])
    assert accuracy(Problem("q", "8", "test"), cut) == 0
    assert accuracy(Problem("q", "8", "test"), dataclasses.replace(cut, finished=True)) == 1
    assert accuracy(Problem("q", "8", "test"), dataclasses.replace(cut, text=f"{text}, so")) == 1


def test_a_repeated_question_is_no_answer() -> None:
    for text in ("0 + 3 = RIVANT", "0 + 3 = ", "0 + 3", "0+3", "3 + 0 = ?", "What is 0 + 3?", "0 plus 3 is"):
        assert accuracy(Problem("0 + 3", "3", "arithmetic"), completion(text, "number")) == 0, text
    for text in ("0 + 3 = 3", "3", "The answer is 3.", "It is **3**", "0 + 3 is 3"):
        assert accuracy(Problem("0 + 3", "3", "arithmetic"), completion(text, "number")) == 1, text


def test_a_repeated_story_is_no_answer() -> None:
    story = "Tom has 0 apples and gets 3 more. How many now?"
    assert accuracy(Problem(story, "3", "story"), completion(story, "number")) == 0
    assert accuracy(Problem(story, "3", "story"), completion(f"{story} RIVANT", "number")) == 0
    assert accuracy(Problem(story, "3", "story"), completion(f"{story} He has 3", "number")) == 1
    assert accuracy(Problem("3", "3", "test"), completion("3", "number")) == 1


def test_format_is_judged_by_the_template() -> None:
    assert format(SUM, answered("a cat")) == 1
    assert format(SUM, completion("85")) == 0
    assert format(SUM, completion("85", template="number")) == 1
    assert format(SUM, completion("a cat", template="number")) == 0


def test_length_costs_tokens_and_not_characters() -> None:
    assert length(SUM, completion("long " * 100, tokens=5)) == -0.25
    assert length(SUM, completion("", tokens=20)) == -1


def score(question: str, text: str, template: str = "r1-zero") -> float:
    completion = Completion(text, tokens=10, limit=20, finished=True, template=find_template(template))
    return RULES["language"](Problem(question, "7", "number"), completion)


def test_language_judges_only_the_reasoning() -> None:
    text = "<think>We add 然后 检查 now</think><answer>等于 seven</answer>"
    assert score("What is 3 + 4?", text) == pytest.approx(3 / 5)
    assert score("3 加 4 等于多少？", text) == pytest.approx(2 / 5)


def test_unfinished_reasoning_is_judged_to_its_end() -> None:
    assert score("What is 3 + 4?", "<think>We add 然后 检查 now") == pytest.approx(3 / 5)


def test_a_question_without_words_takes_the_main_language_of_the_reasoning() -> None:
    assert score("3 + 4", "<think>We add 检查 now</think><answer>7</answer>") == pytest.approx(3 / 4)
    assert score("3 + 4", "<think>3 + 4 = 7</think><answer>7</answer>") == 1.0


def test_a_text_without_tags_is_judged_as_a_whole() -> None:
    assert score("What is 3 + 4?", "It is 七 indeed", template="number") == pytest.approx(3 / 4)
