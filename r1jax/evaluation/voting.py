"""Classes of equivalent answers to a problem, for the majority vote."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np

from r1jax.data.problems import countdown, gym
from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import parse_number
from r1jax.rewards.scores import FULL_SCORE, Scorer

RIGHT, NO_ANSWER = 0, -1  # classes of the right answers and of samples without an answer

Form = Hashable  # normal form of an answer; equal forms are equivalent

_COMPARING_CHECKERS = ("number", "math", "contains", "gym")  # may accept answers of different forms
_PLAIN = re.compile(r"[-+0-9.,/\s]+")  # no unit and no percent sign: with them answers of one value may differ


def vote_classes(
    problems: Sequence[Problem], answers: Sequence[Sequence[str | None]], correct: np.ndarray, scorer: Scorer
) -> np.ndarray:
    """Classes of equivalent answers, for maj_at_k: [P, n] int32, RIGHT, NO_ANSWER, or from 1 on the wrong ones.

    answers: [P][n], None if no answer could be read. correct: [P, n] bool, by the problem's checker.

    Two answers are equivalent if the checker accepts both, or if it rejects both and accepts one with the other as the
    expected answer (for countdown: if the expressions have the same value). That relation need not be transitive, so
    classes are formed in order: the most frequent answer without a class, and the shortest of equally frequent ones,
    leads the next class, and all others that are accepted in its place join. The result does not depend on the order
    of the samples. A problem without a right answer loses every vote, so its wrong answers are not compared: each form
    is a class. Comparisons run in the scorer's workers. A comparison that misses the deadline counts as different, and
    an answer that the checker cannot judge within the deadline is a class of its own.
    """
    correct = np.asarray(correct, bool)
    votes = np.full(correct.shape, NO_ANSWER, np.int32)
    votes[correct] = RIGHT
    wrong_forms: list[dict[Form, str]] = []  # of each problem: form -> text, in the order in which forms lead
    for problem, row, right in zip(problems, answers, correct, strict=True):
        wrong = [answer.strip() for answer, ok in zip(row, right, strict=True) if answer and answer.strip() and not ok]
        counts = Counter(_form(problem, text) for text in wrong)
        texts = {_form(problem, text): text for text in sorted(wrong, key=_shortest, reverse=True)}
        order = sorted(counts, key=lambda form, counts=counts, texts=texts: (-counts[form], _shortest(texts[form])))
        wrong_forms.append({form: texts[form] for form in order})
    classes = _wrong_classes(problems, wrong_forms, [bool(row.any()) for row in correct], scorer)
    for at, (problem, row) in enumerate(zip(problems, answers, strict=True)):
        for i, answer in enumerate(row):
            if answer and answer.strip() and not correct[at, i]:
                votes[at, i] = classes[at][_form(problem, answer.strip())]
    return votes


def _wrong_classes(
    problems: Sequence[Problem], wrong_forms: Sequence[dict[Form, str]], compared: Sequence[bool], scorer: Scorer
) -> list[dict[Form, int]]:
    """The class of each wrong form; in each round one leader of every problem is compared, all of them in one batch.

    compared: [P], False for problems whose forms are not compared.
    """
    classes: list[dict[Form, int]] = [{} for _ in problems]
    remaining = [list(forms) for forms in wrong_forms]
    # An answer that the checker cannot judge in time would be late in every comparison, so it is not compared.
    candidates = [
        (at, form)
        for at, forms in enumerate(remaining)
        if compared[at] and len(forms) > 1 and problems[at].checker in _COMPARING_CHECKERS
        for form in forms
    ]
    scores = scorer.check([problems[at] for at, _ in candidates], [wrong_forms[at][form] for at, form in candidates])
    comparable = {pair for pair, score in zip(candidates, scores, strict=True) if not np.isnan(score)}
    number = 0
    while any(remaining):
        number += 1
        pairs: list[tuple[int, Form]] = []
        expected: list[Problem] = []
        for at, forms in enumerate(remaining):
            if not forms:
                continue
            leader = forms.pop(0)
            classes[at][leader] = number
            if (at, leader) in comparable:
                others = [(at, form) for form in forms if (at, form) in comparable and not _differ(leader, form)]
                pairs += others
                expected += [_expecting(problems[at], wrong_forms[at][leader])] * len(others)
        accepted = scorer.check(expected, [wrong_forms[at][form] for at, form in pairs]) > FULL_SCORE
        for (at, form), same in zip(pairs, accepted, strict=True):
            if same:
                classes[at][form] = number
                remaining[at].remove(form)
    return classes


def _differ(a: Form, b: Form) -> bool:
    """True if two forms are numbers further apart than the tolerance of any checker."""
    return isinstance(a, Fraction) and isinstance(b, Fraction) and abs(a - b) > max(abs(a), abs(b)) / 100


def _form(problem: Problem, text: str) -> Form:
    """The normal form of an answer: equal for texts that are known to be equivalent without the checker."""
    match problem.checker:
        case "number" | "math":
            form = parse_number(text) if _PLAIN.fullmatch(text) else None
        case "countdown":
            form = countdown.value(text)
        case "contains":
            form = text.casefold()
        case _:
            form = None
    return text if form is None else form


def _expecting(problem: Problem, answer: str) -> Problem:
    """The problem with ``answer`` as its right answer."""
    if problem.checker == "gym":
        return dataclasses.replace(problem, answer=answer, metadata=gym.with_answer(problem.metadata, answer))
    return dataclasses.replace(problem, answer=answer)


def _shortest(text: str) -> tuple[int, str]:
    return len(text), text
