"""Readable solutions, written by rules in the language of the question, for arithmetic and countdown problems."""

from __future__ import annotations

import ast
import json
import re

from r1jax.data.problems.problem import Language, Problem
from r1jax.data.text.column_arithmetic import PLACES, work_columns
from r1jax.data.text.language import main_language

_LEAD: dict[Language, str] = {"en": "I work the {place}", "zh": "我算{place}"}
_INTRO: dict[Language, str] = {"en": "I need {a} {sign} {b}. ", "zh": "我要算 {a} {sign} {b}。"}
SUMMARY: dict[Language, str] = {
    "en": "The result is <answer>{answer}</answer>.",
    "zh": "结果是 <answer>{answer}</answer>。",
}
_STEP: dict[Language, str] = {
    "en": "I make {left} {sign} {right} = {value}. ",
    "zh": "我算 {left} {sign} {right} = {value}。",
}
_REACHED: dict[Language, str] = {"en": "This is the target.", "zh": "这就是目标。"}
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_QUESTION = re.compile(r"(\d+) *([+-]) *(\d+)")


def language_of(problem: Problem) -> Language:
    """The language to answer in: the problem's own, else that of the question; English for a question without words."""
    language = problem.language or main_language(problem.question)
    return "zh" if language == "zh" else "en"


def first_person(text: str, language: Language) -> str:
    """Column arithmetic in the first person: "ones: 7+8" becomes "I work the ones: 7+8"."""
    for name in PLACES[language]:
        lead = _LEAD[language].format(place=name)
        text = re.sub(rf"(?<!\w){name}(?=:)", lead, text)
    return text


def summary(problem: Problem, answer: str) -> str:
    """The sentence after the reasoning, with the answer in its tags."""
    return SUMMARY[language_of(problem)].format(answer=answer)


def response(problem: Problem) -> str | None:
    """The assistant's whole text, "<think>reasoning</think>summary"; None for a problem without a rule.

    There are rules for sums and differences of two whole numbers, as an expression ("37 + 48") or in words
    (r1jax.data.problems.word_problems), which are worked out column by column, and for countdown, whose reasoning lists
    the steps of the solution.
    """
    reasoning = _countdown(problem) if problem.checker == "countdown" else _columns(problem)
    if reasoning is None:
        return None
    return f"<think>{reasoning}</think>{summary(problem, problem.answer)}"


def _columns(problem: Problem) -> str | None:
    """The column arithmetic of a sum or difference of two numbers; None for any other problem."""
    language = language_of(problem)
    given = json.loads(problem.metadata) if problem.metadata else {}
    if {"a", "b", "operation"} <= given.keys():
        a, b, sign = given["a"], given["b"], given["operation"]
    elif match := _QUESTION.fullmatch(problem.question):
        a, sign, b = int(match[1]), match[2], int(match[3])
    else:
        return None
    intro = _INTRO[language].format(a=a, sign=sign, b=b) if problem.kind == "story" else ""
    return intro + first_person(work_columns(a, b, sign, languages=(language,))[0], language)


def _countdown(problem: Problem) -> str:
    """The steps of the expression that solves the problem, innermost first."""
    language = language_of(problem)
    steps: list[str] = []

    def work(node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int)
            return node.value
        assert isinstance(node, ast.BinOp)
        left, right, sign = work(node.left), work(node.right), _SIGNS[type(node.op)]
        value = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
        steps.append(_STEP[language].format(left=left, sign=sign, right=right, value=value))
        return value

    work(ast.parse(problem.answer, mode="eval").body)
    return "".join(steps) + _REACHED[language]
