"""Shapes of problem sets: which columns have the question and the answer, and where the answer stands in its column."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from r1jax.data.formats.rows import Row, nested, parse_literal
from r1jax.data.problems import code_rows
from r1jax.data.problems.questions import are_messages
from r1jax.data.text.boxes import boxed
from r1jax.errors import UserError

# whole: the column is the answer. solution: the answer is at its end, after #### or in \boxed{}; else the column is it.
Place = Literal["whole", "solution", "marked", "boxed"]

FIELDS = ("prompt", "answer", "kind", "checker", "language")  # what --problems.columns may name

_QUESTIONS = ("problem", "question", "prompt", "query", "instruction", "input")
_ANSWERS = ("answer", "final_answer", "ground_truth", "expected_answer", "gold_answer", "gt_answer", "target")
_SOLUTIONS = ("solution", "completion", "response")
_KINDS = ("kind", "subject", "type", "topic", "problem_type", "data_source", "category", "domain", "source", "level")


@dataclasses.dataclass(frozen=True)
class Shape:
    r"""Where the parts of a problem stand in a row.

    name: for the user.
    prompt, answer, kind, checker, language: columns, with dots for nested ones; None: the rows have no such column.
    place: where the answer stands in its column: it is the whole column, after ####, in the last \boxed{}, or in
      either of these if one is there ("solution").
    judged: "number" if all answers are numbers, "math" if they are mathematics, "either" if each is judged as a number
      if it is one and as mathematics otherwise; None: as the config says.
    code: the function in code_rows.READERS that reads the rows whose answer is a program; "": no row has one.
    more: other columns that this function reads.
    """

    name: str
    prompt: str
    answer: str
    kind: str | None = None
    checker: str | None = None
    language: str | None = None
    place: Place = "whole"
    judged: Literal["number", "math", "either"] | None = None
    code: str = ""
    more: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        parts = (self.prompt, self.answer, self.kind, self.checker, self.language, *self.more)
        return tuple(dict.fromkeys(column for column in parts if column))

    def __str__(self) -> str:
        places = {
            "whole": "",
            "solution": r" or its part after #### or in \boxed",
            "marked": " after ####",
            "boxed": r" in \boxed",
        }
        kind = f", kind: {self.kind}" if self.kind else ""
        answer = f"tests: {self.answer}" if self.more else f"answer: {self.answer}{places[self.place]}"
        return f"{self.name} (question: {self.prompt}, {answer}{kind})"


def recognise(row: Row, location: str, columns: Sequence[str] = ()) -> Shape:
    """The shape of a data set, from its first row and from FIELD=COLUMN, which overrides what is recognised.

    Raises UserError if no shape is recognised, or a column that was named does not exist; lists the columns there are.
    """
    given = parse_columns(columns)
    for name in given.values():
        if not _has(row, name):
            raise UserError(f"{location}: no column {name!r}: it has {_names(row)}")
    if images := next((name for name in row if name.lower() in ("image", "images") and row[name]), None):
        raise UserError(f"{location}: column {images!r} has images, which the models here do not read: give text alone")
    # Columns that the user names replace those of a code problem, so its rows have another shape.
    found = None if given.keys() & {"prompt", "answer", "checker"} else _code(row)
    found = found or _known({**row, **{field: nested(row, name) for field, name in given.items()}})
    if found is None:
        missing = next((field for field in ("prompt", "answer") if row.get(field) is None and field not in given), "")
        raise UserError(
            f"{location}: no column {missing!r}: it has {_names(row)}: name yours with --problems.columns prompt=... "
            "answer=..."
        )
    if "answer" in given:
        found = dataclasses.replace(found, place="solution", judged=None, code="")
    name = f"{found.name}, changed by --problems.columns" if given else found.name
    return dataclasses.replace(found, name=name, **given)


def parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Field -> column of FIELD=COLUMN; raises UserError for another form or an unknown or repeated field."""
    given: dict[str, str] = {}
    for text in columns:
        field, sign, column = text.partition("=")
        if field not in FIELDS or not sign or not column:
            raise UserError(f"--problems.columns {text}: write FIELD=COLUMN with a field of {', '.join(FIELDS)}")
        if field in given:
            raise UserError(f"--problems.columns names {field} twice: name it once")
        given[field] = column
    return given


def _code(row: Row) -> Shape | None:
    """The shape of a data set whose answers are all programs; None for other rows."""
    if all(isinstance(row.get(name), str) for name in ("prompt", "test", "entry_point")):
        return Shape("HumanEval", "prompt", "test", code="HumanEval", more=code_rows.HUMANEVAL)
    if isinstance(row.get("test_list"), list) and (row.get("text") or row.get("prompt")):
        question = "prompt" if row.get("prompt") else "text"
        return Shape("MBPP", question, "test_list", code="MBPP", more=code_rows.MBPP)
    if row.get("question_content") and row.get("public_test_cases"):
        more = code_rows.LIVECODEBENCH
        kind = "difficulty" if row.get("difficulty") else None
        return Shape("LiveCodeBench", "question_content", "public_test_cases", kind, code="LiveCodeBench", more=more)
    return None


def _known(row: Row) -> Shape | None:
    """The first known shape that the row has; column names match in any case."""
    names = {name.lower(): name for name in reversed(row)}

    def has(name: str) -> bool:
        return name in names and row[names[name]] is not None

    def first(*among: str) -> str | None:
        return next((names[name] for name in among if has(name)), None)

    kind = first(*_KINDS)
    if nested(row, "reward_model.ground_truth") is not None and has("prompt"):
        truth = "reward_model.ground_truth"
        return Shape("verl", names["prompt"], truth, kind, place="solution", judged="either", code="verl")
    marked = isinstance(answer := row.get(names.get("answer", "")), str) and "####" in answer
    if "prompt" in row and "answer" in row and not are_messages(row["prompt"]):
        place = "solution" if marked else "whole"
        return Shape("prompt and answer", "prompt", "answer", "kind", "checker", "language", place=place)
    if has("question") and marked:
        return Shape("gsm8k", names["question"], names["answer"], kind, place="marked", judged="number")
    question, answer = first(*_QUESTIONS), first(*_ANSWERS)
    solution = first(*_SOLUTIONS)
    if question is None or (question == names.get("instruction") and row.get(names.get("input", ""))):
        return None  # an instruction and its input are two parts of one question
    if has("problem") and has("solution") and first("subject", "type", "level"):
        if answer:
            return Shape("MATH", question, answer, kind, place="solution", judged="math")
        return Shape("MATH", question, names["solution"], kind, place="boxed", judged="math")
    if answer:
        name = "TRL" if has("prompt") else f"{question} and {answer}"
        return Shape(name, question, answer, kind, place="solution", judged="either")
    if has("problem") and has("solution"):
        return Shape("problem and solution", question, names["solution"], kind, place="boxed", judged="math")
    if solution and has("prompt"):
        return Shape("TRL", names["prompt"], solution, kind, place="solution", judged="either")
    return None


def kind_name(value: Any) -> str:
    """A kind as the name of a metric: without white space, commas, colons and other signs between its words."""
    return re.sub(r"[^\w./+]+", "-", str(value).strip()).strip("-")


def placed_answer(text: str, place: Place) -> str | None:
    r"""The answer in a column: after the last ####, in the last \boxed{}, or the whole text; None if there is none."""
    if place == "whole":
        return text
    if place != "boxed" and "####" in text:
        return text.rpartition("####")[2].strip()
    box = None if place == "marked" else (None, *boxed(text))[-1]
    return text if box is None and place == "solution" else box


def _has(row: Row, name: str) -> bool:
    """True if the row has a column, or a part of one after dots, even if its value is null."""
    outer, dot, last = name.rpartition(".")
    value = parse_literal(nested(row, outer), "{") if dot else row
    return name in row or (isinstance(value, dict) and last in value)


def _or_empty(name: str, value: Any) -> str:
    return f"{name} (empty)" if value is None else name


def _names(row: Row) -> str:
    """The columns of a row for an error message, nested ones with dots; those of null are marked as empty."""
    names = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [_or_empty(name, value)]
    shown = ", ".join(names[:8]) or "none"
    return (shown if len(shown) <= 90 else f"{shown[:90]}...") + (
        f" and {len(names) - 8} more" if len(names) > 8 else ""
    )
