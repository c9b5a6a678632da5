r"""Tasks whose answer is a number or a mathematical expression: gsm8k, math500, aime24."""

from __future__ import annotations

import dataclasses

from r1jax.data.formats.rows import column, text_cell
from r1jax.data.problems.files import row_problem
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.shapes import Shape
from r1jax.errors import UserError
from r1jax.evaluation.tasks.task import Row, Task

# As published with the models of DeepSeek-R1: the answer stands in a box, and there is no system message.
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."


def gsm8k(row: Row, location: str) -> Problem:
    """A problem of GSM8K (arXiv 2110.14168): the answer is the number after ``####``, without commas."""
    answer, prompt = column(row, location, "answer", "solution"), column(row, location, "question", "prompt")
    shape = Shape("gsm8k", prompt, answer, place="solution", judged="number")
    _, problem = row_problem(row, location, shape, "gsm8k", "number")
    return dataclasses.replace(problem, answer=problem.answer.replace(",", ""))


def math500(row: Row, location: str) -> Problem:
    """A problem of MATH-500 (arXiv 2305.20050); its kind is the subject."""
    kind = str(row.get("subject") or row.get("type") or "math500")
    prompt, answer = column(row, location, "problem", "question"), column(row, location, "answer")
    return row_problem(row, location, Shape("MATH", prompt, answer), kind, "math")[1]


def aime24(row: Row, location: str) -> Problem:
    """A problem of the AIME of 2024, whose answer is a whole number from 0 to 999."""
    answer = text_cell(row, location, "answer", "Answer")
    if not answer.strip().isdecimal() or int(answer) > 999:
        raise UserError(f"{location}: column 'answer' is {answer[:40]!r}: write a whole number from 0 to 999")
    return Problem(text_cell(row, location, "problem", "Problem"), str(int(answer)), "aime24", "number")


_SUFFIXES = ("jsonl", "parquet", "json", "csv", "jsonl.gz")


def names(folder: str, *stems: str) -> tuple[str, ...]:
    """Patterns of files in a folder of the task, and of single files beside it that are named after the task."""
    own = (stem for stem in stems if not stem.startswith(("test", "train")) and "/" not in stem)
    places = (*(f"{folder}/{stem}" for stem in stems), folder, *own)
    return tuple(f"{place}.{suffix}" for place in places for suffix in _SUFFIXES)


TASKS = (
    Task(
        name="gsm8k",
        hub="hf:openai/gsm8k:main/test",
        files=names("gsm8k", "main/test*", "test*", "gsm8k_test"),
        columns=("question", "prompt", "answer", "solution"),
        problem=gsm8k,
        form="boxed",
        request=BOXED,
        samples=4,
    ),
    Task(
        name="math500",
        hub="hf:HuggingFaceH4/MATH-500/test",
        files=names("math500", "test*", "math500*", "MATH-500*"),
        columns=("problem", "question", "answer", "subject", "type"),
        problem=math500,
        form="boxed",
        request=BOXED,
        samples=4,
    ),
    Task(
        name="aime24",
        hub="hf:HuggingFaceH4/aime_2024/train",
        files=names("aime24", "data/train*", "train*", "test*", "aime*"),
        columns=("problem", "Problem", "answer", "Answer"),
        problem=aime24,
        form="boxed",
        request=BOXED,
        samples=64,
    ),
)
