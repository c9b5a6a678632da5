r"""Prompts of tasks, and how answers are read from completions: \boxed{}, a letter, code, or answer tags."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Literal

from r1jax.data.problems.problem import Problem
from r1jax.data.text.boxes import boxed
from r1jax.data.text.numbers import last_number
from r1jax.data.text.template import Template, find_template
from r1jax.errors import UserError
from r1jax.rewards.code.program import has_block, program_in

Form = Literal["boxed", "letter", "code", "tags"]

_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FONT = r"(?:\\?(?:text|mathrm|textbf|mathbf|boxed)\{\(?)?"
# The numbers limit repetitions that a long row of spaces would make slow.
# A second letter, such as in "A, B" or "A or B", makes the choice unclear: neither counts. "I" is mostly a word.
_NO_SECOND = r"(?![)}*$\s]{0,8}(?:[,/&]|and\b|or\b)[(*$\s]{0,8}(?:(?:and|or)\b)?[(*$\s]{0,8}[A-HJ](?:[^\w']|$))"
# A letter counts if nothing but a bracket, a mark or the end of the line follows: in "the answer is A cell" none does.
# After "Answer:", the choice itself may also follow, behind a dash or in brackets.
_LETTER = re.compile(
    r"(?i:\banswer\b(?:\s+is)?)[\s*_]{0,8}([:：])?[\s:*_$\"`\\(\[]{0,16}"
    + _FONT
    + r"([A-Z])"
    + _NO_SECOND
    + r"(?=[)}\]*_$.,:;\"`\\]|\s*$|(?(1)\s+[-\u2013\u2014(]|(?!)))",
    re.MULTILINE,
)
_ALONE = re.compile(
    r"[\s(*$]*" + _FONT + r"\(?([A-Z])" + _NO_SECOND + r"[)}*$]{0,8}(?:[.):,]\s.*|[\s).:*$]*)", re.DOTALL
)
_LAST_LINE = re.compile(r"\W*answer\W*[:：]", re.IGNORECASE)
_DEFINITION = re.compile(r"^(?:(?:async )?def|class) ", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class TaskTemplate(Template):
    """A template whose answers are read in the form of a task.

    form: how the answer stands in the text after the reasoning.
    named: the template was chosen by name, so its own rule finds the answer, and ``form`` reads the letter or the code
      in it.
    """

    form: Form = "boxed"
    named: bool = False

    def question(self, problem: Problem) -> str:
        """The prompt of a problem; without chat, a problem with a function to complete is asked by that alone."""
        if self.form == "code" and not self.chat and not self.named and (prefix := code_prefix(problem)):
            return prefix
        return super().question(problem)

    def answer(self, text: str) -> str | None:
        """The answer in the text, None if there is none; text inside the reasoning is never the answer."""
        if not self.named:
            return _READERS[self.form](self.reply(text))
        given = super().answer(text)
        if given is None or self.form not in ("letter", "code"):
            return given
        return _READERS[self.form](given)

    def well_formed(self, text: str) -> bool:
        r"""True if the answer has the form that the prompt asks for, such as \boxed{}, and not only a readable one."""
        if self.named:
            return super().well_formed(text)
        after = self.reply(text).rstrip()
        match self.form:
            case "boxed":
                return read_boxed(after) is not None
            case "letter":
                last = (after.splitlines() or [""])[-1]
                return _LAST_LINE.match(last) is not None and read_letter(last) is not None
            case "code":
                return has_block(after)
            case "tags":
                return _TAGS.search(after) is not None


def task_template(form: Form, request: str, chat: bool, named: str | None = None) -> TaskTemplate:
    """The template of a task: the question with a request, in the chat template or as plain text.

    request: what the prompt asks for, after the question. chat: the model has a chat template. named: the name of a
    template in r1jax.data.text.template that replaces the prompt of the task.

    Raises UserError for an unknown name, or if the template needs a chat template that the model does not have.
    """
    if named is None:
        text = f"{{question}}\n\n{request}" if chat else f"Question:\n{{question}}\n\n{request}\n\nAnswer:\n"
        return TaskTemplate("task", text, chat, prefill="", tags=False, expression="What is {question}?", form=form)
    template = find_template(named)
    if template.chat and not chat:
        raise UserError(f"--template={named} needs a chat model: give another --template, or none")
    fields = {field.name: getattr(template, field.name) for field in dataclasses.fields(template)}
    return TaskTemplate(**fields, form=form, named=True)


def code_prefix(problem: Problem) -> str:
    """The code that a completion continues, such as the head of a function; "" if there is none."""
    prefix = json.loads(problem.metadata).get("prefix", "") if problem.metadata else ""
    return prefix if _DEFINITION.search(prefix) else ""  # imports alone are no question


def read_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` or ``\fbox{}`` whose braces are balanced, stripped; None without one."""
    return next((box for box in reversed(boxed(text)) if box is not None), None)


def read_letter(text: str) -> str | None:
    r"""The letter of a choice: in the last ``\boxed{}``, after the last "answer", or as the whole text; else None."""
    box = read_boxed(text)
    tagged = _TAGS.findall(text)
    for part in ([box] if box is not None else []) + tagged[-1:]:
        if alone := _ALONE.fullmatch(part):
            return alone[1]
    if found := _LETTER.findall(text):
        return found[-1][1]
    alone = _ALONE.fullmatch(text)
    return alone[1] if alone else None


def _boxed_answer(text: str) -> str | None:
    """The boxed answer, that between answer tags, or else the last number that the text states."""
    box = read_boxed(text)
    if box is not None:
        return box or None
    tagged = _TAGS.findall(text)
    return (tagged[-1].strip() if tagged else last_number(text)) or None


def _tagged_answer(text: str) -> str | None:
    """The text between the last pair of answer tags, or else the boxed answer."""
    tagged = _TAGS.findall(text)
    return (tagged[-1].strip() if tagged else read_boxed(text)) or None


_READERS: dict[Form, Callable[[str], str | None]] = {
    "boxed": _boxed_answer,
    "letter": read_letter,
    "code": program_in,
    "tags": _tagged_answer,
}
