"""Tasks with several choices, whose answer is a letter: gpqa, mmlu."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from r1jax.data.formats.rows import cell, preview, text_cell
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks.maths import names
from r1jax.evaluation.tasks.task import Row, Task

LETTERS = "ABCDEFGHIJ"
_REQUEST = 'Reason step by step. Then write the last line of your reply in the form "Answer: LETTER".'
_FOUR = ("A", "B", "C", "D")  # columns of the choices in the original files of MMLU
_SUBJECT_FILE = re.compile(r"(\w+)_(?:test|val|dev)\.csv\b")
_WRONG = tuple(f"Incorrect Answer {i}" for i in (1, 2, 3))


def shuffled(choices: Sequence[str], question: str) -> list[int]:
    """The order in which choices are shown: by a hash of question and choice, so that it is the same in every run."""

    def rank(i: int) -> bytes:
        return hashlib.blake2b(f"{question}\n{choices[i]}".encode(), digest_size=16).digest()

    return sorted(range(len(choices)), key=rank)


def gpqa(row: Row, location: str) -> Problem:
    """A problem of GPQA (arXiv 2311.12022), its four choices in the order of ``shuffled``; its kind is the domain."""
    question = text_cell(row, location, "Question", "question").strip()
    choices = [text_cell(row, location, name).strip() for name in ("Correct Answer", *_WRONG)]
    order = shuffled(choices, question)
    kind = str(row.get("High-level domain") or "gpqa")
    return _problem(question, [choices[i] for i in order], order.index(0), kind)


def mmlu(row: Row, location: str) -> Problem:
    """A problem of MMLU (arXiv 2009.03300), its choices in their own order; its kind is the subject.

    The choices are one column, or the columns A to D of the original files, whose names begin with the subject.
    """
    original = row.get("choices") is None and all(row.get(name) is not None for name in _FOUR)
    choices = [row[name] for name in _FOUR] if original else cell(row, location, "choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise UserError(f"{location}: column 'choices' is {preview(choices)}: write a list of 2 to 10 texts")
    answer = cell(row, location, "answer")
    if isinstance(answer, str) and answer.strip() in LETTERS[: len(choices)]:
        answer = LETTERS.index(answer.strip())
    elif isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UserError(
            f"{location}: column 'answer' is {preview(answer)}: write the place of the right choice from 0 on, or its "
            "letter"
        )
    question = text_cell(row, location, "question")
    file = _SUBJECT_FILE.search(location)
    kind = str(row.get("subject") or (file[1] if file else "mmlu"))
    return _problem(question, [str(choice) for choice in choices], answer, kind)


def _problem(question: str, choices: Sequence[str], right: int, kind: str) -> Problem:
    lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return Problem("\n".join([question.strip(), "", *lines]), LETTERS[right], kind, "exact")


TASKS = (
    Task(
        name="gpqa",
        hub="hf:Idavidrein/gpqa:gpqa_diamond/train",
        files=names("gpqa", "gpqa_diamond*", "dataset/gpqa_diamond*", "test*"),
        columns=("Question", "question", "Correct Answer", *_WRONG, "High-level domain"),
        problem=gpqa,
        form="letter",
        request=_REQUEST,
        samples=8,
    ),
    Task(
        name="mmlu",
        hub="hf:cais/mmlu:all/test",
        files=names("mmlu", "all/test*", "test*", "mmlu_test", "test/*_test", "data/test/*_test"),
        columns=("question", "choices", *_FOUR, "answer", "subject"),
        problem=mmlu,
        form="letter",
        request=_REQUEST,
        samples=1,
        header=("question", *_FOUR, "answer"),
    ),
)
