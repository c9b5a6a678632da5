"""The template around a question: one object makes the prompt and reads the completion, in training and evaluation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import last_number, parse_number, plain
from r1jax.errors import UserError
from r1jax.names import lookup

if TYPE_CHECKING:  # reward workers read this module and need no tokenizer
    from r1jax.tokenizer import Tokenizer

ANY = Problem("?", "", "")  # stands for each problem in what does not depend on it
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# Numbers and signs alone. A question with words or a relation, such as "What is 3 + 4?" or "3 + 4 =", asks by itself.
_EXPRESSION = re.compile(r"[-+(. ]*[0-9](?:[-+*/^\u00d7÷().,0-9 ]*[0-9)])?")
_THINK = re.compile("(</?think>)")
_IN_ORDER = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_OPENED = re.compile(r"<think>\s*\Z")
_WITH_PROSE = re.compile(r"\s*<think>.*</think>.*<answer>.*</answer>.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Template:
    """How a question becomes a prompt, and a completion an answer.

    name: what a config calls it.
    instruction: the text around ``{question}``.
    expression: what a question that is a bare expression, such as 37 + 48, is made into first.
    chat: put the instruction into the tokenizer's chat template as the user's message, or else use it as it is.
    system: the chat's system message; None leaves it to the chat template.
    prefill: the start of the assistant's text, given with the prompt.
    tags: the text is ``<think>reasoning</think><answer>answer</answer>``, or else the answer alone.
    prose: other text may stand around the answer after the reasoning, which makes a summary of it.
    conclusion: without tags, the words between the reasoning and the answer; "" asks for no reasoning.
    """

    name: str
    instruction: str
    chat: bool = False
    system: str | None = None
    prefill: str = "<think>"
    tags: bool = True
    prose: bool = False
    conclusion: str = ""
    expression: str = "{question}"

    def prompt_ids(self, problem: Problem, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt with the prefill; a plain one starts with bos where the tokenizer has one.

        A tag that the chat template opens itself at the end of its prompt is not opened again, and white space that it
        puts before the assistant's text stands before the prefill too.
        """
        if self.chat:
            messages = self.messages(problem)
            prompt = tokenizer.render(messages).text
            rest = unopened(prompt, self.prefill)
            return tokenizer.encode(prompt + _space_between(messages, prompt, rest, tokenizer) + rest)
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        return bos + tokenizer.encode(self.question(problem) + self.prefill)

    def question(self, problem: Problem) -> str:
        """The problem's question in the instruction; words of its own make a sentence of a bare expression alone."""
        question = problem.question
        if _EXPRESSION.fullmatch(question):
            question = self.expression.replace("{question}", question)
        return self.instruction.replace("{question}", question)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The chat that asks a problem, system message first where there is one."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.question(problem)}]

    def opening(self, tokenizer: Tokenizer) -> str:
        """The start of the assistant's text that prompts give: the prefill, or the tag as the chat template opens it.

        With the completion behind it, this is the whole text: what rewards look at, and what fine-tuning learns from.
        """
        if not self.chat:
            return self.prefill
        prompt = tokenizer.render(self.messages(ANY)).text
        opened = _OPENED.search(prompt)
        return (opened[0] if opened else "") + unopened(prompt, self.prefill)

    def answer(self, text: str) -> str | None:
        """What the text answers, stripped; None where it gives no answer. What stands in the reasoning is no answer.

        With tags: what stands in the one pair of answer tags outside the reasoning, which a missing ``</think>`` leaves
        open to the end. With a conclusion: the result of what follows the last one. Without either: the result of the
        text. The result is r1jax.data.text.numbers.last_number, so that "8 * 6 = 48" answers 48, which the format
        judges, and "0 + 3 = ?" or "0 + 3", which only repeat a question, answer nothing; a text in other words is its
        own result.
        """
        if self.tags:
            return _between(_outside_reasoning(text), "<answer>", "</answer>")
        if self.conclusion:
            text = text.rpartition(self.conclusion)[2] if self.conclusion in text else ""
            if not text.strip():
                return None
        expression = any(map(str.isdigit, text)) and not any(map(str.isalpha, plain(text)))
        return last_number(text) or (None if expression else text.strip())

    def reasoning(self, text: str) -> str | None:
        """What stands in the one pair of think tags, or before the one conclusion, stripped; None without it."""
        if self.tags:
            return _between(text, "<think>", "</think>")
        parts = text.split(self.conclusion) if self.conclusion else []
        return parts[0].strip() if len(parts) == 2 else None

    def summary(self, text: str) -> str:
        """What follows the reasoning, without answer tags, stripped; "" where the reasoning does not end."""
        if not self.tags:
            return text.strip()
        _, end, after = text.partition("</think>")
        return re.sub(r"</?answer>", "", after).strip() if end else ""

    def well_formed(self, text: str) -> bool:
        """Whether the four tags stand once each, in order, with white space at most outside the two pairs.

        With prose, anything may stand after the reasoning, around the answer. Without tags: whether the text is one
        number and nothing else, or some reasoning, the conclusion and one number.
        """
        if not self.tags and not self.conclusion:
            return parse_number(text) is not None
        if not self.tags:
            return bool(self.reasoning(text)) and parse_number(text.partition(self.conclusion)[2]) is not None
        order = _WITH_PROSE if self.prose else _IN_ORDER
        return all(text.count(tag) == 1 for tag in TAGS) and order.fullmatch(text) is not None


def _outside_reasoning(text: str) -> str:
    """The text without what a think tag opens; a first ``</think>`` without one ends reasoning that the prompt opened.

    A text without think tags has no reasoning.
    """
    parts = _THINK.split(text)
    kept = [] if parts[1:2] == ["</think>"] else [parts[0]]
    kept += [part for tag, part in zip(parts[1::2], parts[2::2], strict=True) if tag == "</think>"]
    return "".join(kept)


def unopened(prompt: str, text: str) -> str:
    """What is left to write of the assistant's text where the prompt has opened the think tag that it begins with."""
    opened, inside = _OPENED.search(prompt), text.lstrip().removeprefix("<think>")
    if not opened or inside == text.lstrip():
        return text
    return inside.removeprefix(opened[0].removeprefix("<think>"))


def _space_between(messages: list[dict[str, str]], prompt: str, text: str, tokenizer: Tokenizer) -> str:
    """White space that a chat template puts between its prompt and the assistant's text, as Llama 2's does."""
    if not text:
        return ""
    try:
        whole = tokenizer.render([*messages, {"role": "assistant", "content": text}], add_generation_prompt=False).text
    except UserError:  # it refuses what is no whole reply
        return ""
    behind = whole.removeprefix(prompt).lstrip()
    return whole[len(prompt) : -len(behind)] if whole.startswith(prompt) and behind.startswith(text) else ""


def completion_text(ids: Sequence[int], prompt: Sequence[int], tokenizer: Tokenizer) -> str:
    """Text of sampled ids, without the end token, which its id tells whatever the vocabulary declares it to be.

    They are decoded behind the prompt's last ids, since decoders of SentencePiece's kind drop a space at the start.
    """
    sampled = list(ids[:-1] if ids and ids[-1] in tokenizer.eos_ids else ids)
    before = list(prompt[-8:])
    return tokenizer.decode([*before, *sampled])[len(tokenizer.decode(before)) :]


def _between(text: str, start: str, end: str) -> str | None:
    if text.count(start) != 1 or text.count(end) != 1:
        return None
    before, _, inside = text.partition(start)
    return None if end in before else inside.partition(end)[0].strip()


# The published template of R1-Zero (arXiv 2501.12948, table 1) in other words.
_R1_ZERO = (
    "The assistant answers the user's question. It first reasons about the question in its mind, then gives the user "
    "the answer. The reasoning is written inside <think> </think> and the answer inside <answer> </answer>, like this: "
    "<think> reasoning </think> <answer> answer </answer>."
)

# For base models that reason in prose and would not learn tags from rewards alone.
_STEPS = "Think step by step, then end with: The answer is NUMBER."

TEMPLATES = {
    template.name: template
    for template in (
        Template("think", "{question}\n", expression="{question} = ?"),
        Template("r1-zero", f"{_R1_ZERO}\n\nUser: {{question}}\n\nAssistant:\n"),
        Template("r1-zero-chat", "{question}", chat=True, system=_R1_ZERO),
        Template("r1", "{question}", chat=True, prose=True),
        Template("steps", f"{{question}} {_STEPS}", chat=True, prefill="", tags=False, conclusion="The answer is"),
        Template("direct", "{question} Answer with just the number.", chat=True, prefill="", tags=False),
        Template(
            "number",
            "{question} Answer with just the number.",
            chat=True,
            prefill="",
            tags=False,
            expression="What is {question}?",
        ),
    )
}


def find_template(name: str) -> Template:
    """The template of a name in TEMPLATES; raises UserError for any other."""
    return lookup("template", name, TEMPLATES)
