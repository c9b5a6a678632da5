"""The built-in rewards."""

from __future__ import annotations

import dataclasses
import re

from r1jax.data.problems.problem import Problem
from r1jax.data.text.language import consistency, main_language
from r1jax.data.text.numbers import read_number
from r1jax.rewards.base import Completion, reward
from r1jax.rewards.checkers import check
from r1jax.rewards.code.program import has_block
from r1jax.rewards.code.service import SERVICE


@reward
def accuracy(problem: Problem, completion: Completion) -> float:
    """The score of the answer by the problem's checker; 0 if the template finds no answer.

    In a text without tags, a literal copy of the question is removed first, so that its numbers are not the answer.
    Problems with the checker "code" are judged as by ``code``.
    """
    if problem.checker == "code":
        return code(problem, completion)
    if not completion.template.tags and re.search("[0-9]", problem.question) and read_number(problem.question) is None:
        completion = dataclasses.replace(completion, text=completion.text.replace(problem.question, " "))
    answer = completion.answer
    return 0.0 if answer is None else check(problem, answer)


@reward
def code(problem: Problem, completion: Completion) -> float:
    """The score of a program by the problem's tests, which run in a sandbox (docs/sandbox.md).

    The program is the last block of Python code after the reasoning, or the text there, or the answer in its tags.
    """
    template, text = completion.template, completion.text
    if not template.tags:
        return SERVICE.score(problem, template.reply(text))
    answer = template.answer(text)
    if answer is None and not has_block(template.summary(text)):
        return 0.0
    return SERVICE.score(problem, answer if answer and has_block(answer) else template.summary(text))


@reward
def format(problem: Problem, completion: Completion) -> float:
    """1 if the text has the form that the template asks for, else 0 (arXiv 2501.12948, section 2.2)."""
    return float(completion.template.well_formed(completion.text))


@reward
def length(problem: Problem, completion: Completion) -> float:
    """-tokens / limit: -1 for a completion that reaches its limit."""
    return -completion.tokens / completion.limit


@reward
def language(problem: Problem, completion: Completion) -> float:
    """Share of the reasoning's words that are in the question's language (arXiv 2501.12948, section 2.3.2).

    If the text has no complete reasoning, the whole text is judged. If the question has no words, the language is the
    main language of the reasoning. Formulas and code do not count as words; reasoning without words scores 1.
    """
    text = completion.template.reasoning(completion.text)
    text = completion.text if text is None else text
    target = problem.language or main_language(problem.question) or main_language(text)
    return 1.0 if target is None else consistency(text, target)


RULES = {rule.name: rule for rule in (accuracy, code, format, length, language)}
