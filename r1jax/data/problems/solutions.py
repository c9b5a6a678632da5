"""Readable reasoning for problems that can be worked by rule, in the language of the question."""

from __future__ import annotations

import ast
import json
import re

from r1jax.data.problems.columns import PLACES, Language, columns
from r1jax.data.problems.problem import Problem
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
    """The language that a problem asks for: its own, else that of its question; English where there are no words."""
    found = problem.language or main_language(problem.question)
    return "zh" if found == "zh" else "en"


def first_person(text: str, language: Language) -> str:
    """Column arithmetic with each column told by the one who works it: "ones: 7+8" becomes "I work the ones: 7+8"."""
    for name in PLACES[language]:
        lead = _LEAD[language].format(place=name)
        text = re.sub(rf"(?<!\w){name}(?=:)", lead, text)
    return text


def summary(problem: Problem, answer: str) -> str:
    """The sentence after the reasoning, with the answer in its tags."""
    return SUMMARY[language_of(problem)].format(answer=answer)


def response(problem: Problem) -> str | None:
    """The assistant's whole text, "<think>reasoning</think>summary"; None for a problem that no rule here works.

    Worked are sums and differences of two whole numbers, bare ("37 + 48") or told in words
    (r1jax.data.problems.word_problems), column by column, and countdown, by the steps of its solution.
    """
    reasoning = _countdown(problem) if problem.checker == "countdown" else _columns(problem)
    if reasoning is None:
        return None
    return f"<think>{reasoning}</think>{summary(problem, problem.answer)}"


def _columns(problem: Problem) -> str | None:
    language = language_of(problem)
    given = json.loads(problem.metadata) if problem.metadata else {}
    if {"a", "b", "operation"} <= given.keys():
        a, b, sign = given["a"], given["b"], given["operation"]
    elif match := _QUESTION.fullmatch(problem.question):
        a, sign, b = int(match[1]), match[2], int(match[3])
    else:
        return None
    intro = _INTRO[language].format(a=a, sign=sign, b=b) if problem.kind == "story" else ""
    return intro + first_person(columns(a, b, sign, languages=(language,))[0], language)


def _countdown(problem: Problem) -> str:
    """The steps of the solution's expression, innermost first."""
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
