"""Words and languages of texts."""

from __future__ import annotations

import pytest

from r1jax.data.problems.problem import Problem
from r1jax.data.text.language import consistency, main_language, words
from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.readable_reasoning import make_readable
from r1jax.data.text.template import find_template


def test_words_of_both_languages() -> None:
    found = list(words("我们先计算 the sum，然后检查 it's well-known."))
    assert [word for word, language in found if language == "zh"] == ["我们", "先", "计算", "然后", "检查"]
    assert [word for word, language in found if language == "en"] == ["the", "sum", "it's", "well-known"]


def test_latin_letters_next_to_chinese_are_separate_words() -> None:
    assert list(words("计算sum然后")) == [("计算", "zh"), ("sum", "en"), ("然后", "zh")]


@pytest.mark.parametrize(
    "text",
    [
        "12 + 30 = 42",
        "2x + x1",
        "$\\text{area} = x$",
        "$$\narea\n$$",
        "\\(area\\)",
        "\\[area\n= 2\\]",
        "\\begin{align}area\\end{align}",
        "\\frac{area}{width}",
        "\\boxed{42}",
        "`print(area)`",
        "```python\nprint(area)\n```",
        "```python\nprint(area)",
        "<think></think>",
        "https://example.org/area",
        "x, y",
    ],
)
def test_mathematics_code_and_tags_are_not_words(text) -> None:
    assert list(words(text)) == []


def test_dollar_signs_in_prose_do_not_start_a_formula() -> None:
    assert [word for word, _ in words("it costs \\$5 and then \\$6 more")] == ["it", "costs", "and", "then", "more"]


def test_other_scripts_are_other_languages() -> None:
    assert list(words("ответ さん")) == [("ответ", "cyrillic"), ("さん", "hiragana")]


def test_accents_stay_in_their_word() -> None:
    assert [word for word, _ in words("nai\u0308ve café")] == ["nai\u0308ve", "café"]


def test_main_language() -> None:
    assert main_language("What is 3 + 4?") == "en"
    assert main_language("3 加 4 等于多少？") == "zh"
    assert main_language("小明有 apples 三个，请问一共多少？") == "zh"
    assert main_language("3 + 4 = ?") is None


def test_consistency_is_a_share_of_words() -> None:
    text = "First we add. 然后 检查"  # three words of English, two of Chinese
    assert consistency(text, "en") == pytest.approx(3 / 5)
    assert consistency(text, "zh") == pytest.approx(2 / 5)
    assert consistency("1 + 1 = 2", "zh") == 1.0


def test_unclosed_formulas_hide_only_their_opening() -> None:
    assert [word for word, _ in words(r"one \[ two \( three \begin{a}{b} four \end{c} $$ five")] == [
        "one",
        "two",
        "three",
        "four",
        "five",
    ]
    assert [word for word, _ in words(r"one \begin{a} two \begin{b} three \end{a} four \end{b} five")] == [
        "one",
        "four",
        "five",
    ]
    assert [word for word, _ in words(r"one \[ two \) three \] four")] == ["one", "four"]


@pytest.mark.parametrize(
    "piece",
    ["\\[", "\\(", "\\begin{a}", "\\[a\\]\\(", "$", "\\a{", "<a", "\n", " \n", " ", "<think>", "The answer is "],
)
def test_the_time_to_read_a_completion_is_linear_in_its_length(piece: str) -> None:
    # A pattern with quadratic time would take minutes.
    text = "x" + piece * (60_000 // len(piece)) + "1"
    list(words(text))
    fault(Problem("37 + 48", "85", "arithmetic"), text, ReadabilityConfig(0.0, 10**9, 1.0))
    make_readable(Problem("37 + 48", "85", "arithmetic"), text)
    for name in ("r1", "steps", "number"):
        template = find_template(name)
        for read in (template.answer, template.reasoning, template.summary, template.well_formed):
            read("<think>" + text)


def test_many_unclosed_environments_take_linear_time() -> None:
    names = "".join(f"\\begin{{a{i}}}" for i in range(40_000))
    assert list(words(names + "one")) == [("one", "en")]
