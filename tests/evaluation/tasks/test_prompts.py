from __future__ import annotations

import json
import time

import pytest

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks.prompts import read_boxed, read_letter, task_template

QUESTION = Problem("How many?", "4", "k")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{1} or rather \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {a\}b}", r"a\}b"),
        (r"\fbox{ 7 }", "7"),
        (r"first \boxed{3}, then \boxed{4", "3"),  # the last one is cut
        ("no box", None),
    ],
)
def test_the_last_balanced_box_is_read(text, answer) -> None:
    assert read_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{4}", "4"),
        ("The answer is 4.", "4"),
        ("#### 1,004", "1,004"),
        ("<answer> 4 </answer>", "4"),
        (r"<think> \boxed{3} </think> It is \boxed{4}", "4"),
        (r"I was given this. \boxed{3} </think> It is 4.", "4"),  # the prompt opened the reasoning
        (r"<think> \boxed{3}", None),  # the limit cut the reasoning
        ("3 + 4", None),
        (r"\boxed{}", None),
        ("", None),
    ],
)
def test_a_number_is_read_after_the_reasoning(text, answer) -> None:
    assert task_template("boxed", "Go.", chat=True).answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("**Answer: C**", "C"),
        ("Answer: **C**\n", "C"),
        ("The answer is (D).", "D"),
        ("Answer: A\nNo: Answer: B", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"Answer: $\boxed{C}$", "C"),
        ("<answer>(B) the mitochondria</answer>", "B"),
        ("B", "B"),
        (" (C) ", "C"),
        ("B. a cell", "B"),
        ("Answer: B - a cell", "B"),
        ("Answer: B (a cell)", "B"),
        (r"Answer: \(B\)", "B"),
        (r"Answer: $\mathbf{B}$", "B"),
        ("Answer： `B`", "B"),
        ("Answer: B. A cell", "B"),
        ("Answer: B, since A is a plant", "B"),
        (r"\boxed{B, I think}", "B"),
        ("Answer: A, B", None),
        ("Answer: (A) and (B)", None),
        ("Answer: A/B", None),
        (r"\boxed{A, B}", None),
        ("(A) or (B)", None),
        ("The answer is A cell", None),
        ("A cell", None),
        ("the answer is a.", None),
        ("Answers vary: A", None),
        ("", None),
    ],
)
def test_a_letter_is_read_only_where_it_is_the_answer(text, letter) -> None:
    assert read_letter(text) == letter


@pytest.mark.parametrize(("before", "repeated"), [("answer", " "), ("A", "*"), ("Perhaps A", ", ")])
def test_that_there_is_no_letter_is_found_fast(before, repeated) -> None:
    began = time.perf_counter()
    assert read_letter(before + 50_000 * repeated + "?") is None
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("boxed", r"\boxed{4}", "The answer is 4"),
        ("letter", "Answer: B", "Perhaps B or C"),
        ("letter", "So it is clear.\n\n**Answer: (B)**\n", "The answer is B."),
        ("letter", "Answer: B", "Answer: B\nThis is my choice."),
        ("code", "```python\na = 1\n```", "a = 1"),
        ("tags", "<answer>4</answer>", r"\boxed{4}"),
    ],
)
def test_a_text_is_well_formed_if_its_answer_stands_where_the_prompt_asks_for_it(form, good, bad) -> None:
    template = task_template(form, "Go.", chat=True)
    assert template.well_formed(f"<think>hm</think>{good}")
    assert not template.well_formed(bad)
    assert not template.well_formed(f"<think>{good}")


def test_the_prompt_is_a_message_for_chat_models_and_plain_text_for_others() -> None:
    chat, plain = (task_template("boxed", "Box it.", chat=chat) for chat in (True, False))
    assert chat.messages(QUESTION) == [{"role": "user", "content": "How many?\n\nBox it."}]
    assert not plain.chat
    assert plain.question(QUESTION) == "Question:\nHow many?\n\nBox it.\n\nAnswer:\n"
    assert chat.question(Problem("3 + 4", "7", "k")) == "What is 3 + 4?\n\nBox it."


def test_a_model_without_chat_completes_the_prefix_of_a_code_problem() -> None:
    problem = Problem("Complete f.", "", "k", "exact", json.dumps({"prefix": "def f():\n"}))
    assert task_template("code", "Go.", chat=False).question(problem) == "def f():\n"
    assert task_template("code", "Go.", chat=True).question(problem) == "Complete f.\n\nGo."
    imports = Problem("Write f.", "", "k", "code", json.dumps({"prefix": "from typing import *\n"}))
    assert "Write f." in task_template("code", "Go.", chat=False).question(imports)


def test_a_template_with_a_name_keeps_its_prompt_and_its_rule_for_the_answer() -> None:
    think = task_template("boxed", "Box it.", chat=False, named="think")
    assert think.question(QUESTION) == "How many?\n"
    assert think.answer("<think>2 + 2</think><answer>4</answer>") == "4"
    assert think.answer(r"<think></think>\boxed{4}") is None
    assert think.well_formed("<think>2 + 2</think><answer>4</answer>")
    letter = task_template("letter", "", chat=True, named="r1")
    assert letter.answer("<think>hm</think>So <answer>(B) two</answer>.") == "B"
    code = task_template("code", "", chat=True, named="r1")
    assert code.answer("<think>hm</think><answer>\n```python\na = 1\n```\n</answer>") == "a = 1"


def test_wrong_templates_are_refused() -> None:
    with pytest.raises(UserError, match="unknown template 'thinks': did you mean think"):
        task_template("boxed", "", chat=True, named="thinks")
    with pytest.raises(UserError, match="--template=r1 needs a chat model"):
        task_template("boxed", "", chat=False, named="r1")
