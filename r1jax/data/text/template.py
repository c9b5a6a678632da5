"""Templates: the prompt for a question, and how the answer is read from a completion, in training and evaluation."""

from __future__ import annotations

import dataclasses
import functools
import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from r1jax.data.problems.problem import Problem
from r1jax.data.text.boxes import boxed
from r1jax.data.text.numbers import last_number, parse_number, plain
from r1jax.errors import UserError
from r1jax.names import lookup

if TYPE_CHECKING:  # reward workers import this module and should not import tokenizers
    from r1jax.tokenizer import Tokenizer

ANY = Problem("?", "", "")  # a placeholder for text that does not depend on the problem
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# Only numbers and signs. A text with words or a relation, such as "What is 3 + 4?" or "3 + 4 =", already is a question.
_EXPRESSION = re.compile(r"[-+(. ]*[0-9](?:[-+*/^\u00d7÷().,0-9 ]*[0-9)])?")
_THINK = re.compile("(</?think>)")
_IN_ORDER = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_OPENED = re.compile(r"<think>\s*\Z")
_BLOCK = re.compile(r"^```python\n.+?^```[ \t]*$", re.DOTALL | re.MULTILINE)
_WITH_PROSE = re.compile(r"\s*<think>.*</think>.*<answer>.*</answer>.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Template:
    """How a question becomes a prompt, and how the answer is read from a completion.

    name: the name in configs.
    instruction: the text around ``{question}``.
    chat: put the instruction into the tokenizer's chat template as the user's message; otherwise it is plain text.
    system: the system message of the chat; None: the default of the chat template.
    prefill: the start of the assistant's text, which the prompt ends with.
    tags: the assistant's text is ``<think>reasoning</think><answer>answer</answer>``; otherwise it is the answer alone,
      or reasoning, conclusion and answer.
    prose: other text may surround the answer after the reasoning, as in a summary.
    conclusion: without tags, the words between the reasoning and the answer; "": no reasoning is asked for.
    code: without tags, the answer is the text with its block of Python code, which a checker finds.
    expression: the text that replaces a question which is an expression such as 37 + 48.
    """

    name: str
    instruction: str
    chat: bool = False
    system: str | None = None
    prefill: str = "<think>"
    tags: bool = True
    prose: bool = False
    conclusion: str = ""
    code: bool = False
    expression: str = "{question}"

    def prompt_ids(self, problem: Problem, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt with the prefill; a plain prompt starts with bos if the tokenizer has one.

        If the chat template itself opens the think tag at the end of its prompt, the prefill does not open it again.
        White space that the chat template writes before the assistant's text is also written before the prefill.
        Prompts are kept, since all steps and evaluations of a training ask the same problems.
        """
        return _prompt_ids(self, problem, tokenizer).tolist()

    def question(self, problem: Problem) -> str:
        """The problem's question in the instruction; an expression is first made into a question."""
        question = problem.question
        if _EXPRESSION.fullmatch(question):
            question = self.expression.replace("{question}", question)
        return self.instruction.replace("{question}", question)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The messages that ask a problem, with the system message first if there is one."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.question(problem)}]

    def opening(self, tokenizer: Tokenizer) -> str:
        """The start of the assistant's text in prompts: the prefill, or the think tag as the chat template opens it.

        Followed by the completion, it is the whole text that rewards judge and that fine-tuning learns.
        """
        if not self.chat:
            return self.prefill
        prompt = tokenizer.render(self.messages(ANY)).text
        opened = _OPENED.search(prompt)
        return (opened[0] if opened else "") + unopened(prompt, self.prefill)

    def answer(self, text: str) -> str | None:
        """The answer in the text, stripped; None if there is none. Text inside the reasoning is never the answer.

        With tags, the answer is the content of the only pair of answer tags outside the reasoning; reasoning without
        ``</think>`` extends to the end of the text. With a conclusion, it is the result of the text after the last
        conclusion in upper or lower case, or else of the last ``\\boxed{}``, with which many models end instead; with
        neither, the result of the whole text. The result of a text is its
        r1jax.data.text.numbers.last_number: "8 * 6 = 48" answers 48, and "0 + 3 = ?" and "0 + 3", which only repeat the
        question, answer nothing. A text of words is its own result.
        """
        if self.tags:
            return _between(_outside_reasoning(text), "<answer>", "</answer>")
        if self.code:
            return _outside_reasoning(text).strip() or None
        if self.conclusion:
            said = list(re.finditer(re.escape(self.conclusion), text, re.IGNORECASE))
            text = text[said[-1].end() :] if said else ("", *boxed(text))[-1] or ""
            if not text.strip():
                return None
        expression = any(map(str.isdigit, text)) and not any(map(str.isalpha, plain(text)))
        return last_number(text) or (None if expression else text.strip())

    def reasoning(self, text: str) -> str | None:
        """The content of the only pair of think tags, or the text before the only conclusion, stripped; else None."""
        if self.tags:
            return _between(text, "<think>", "</think>")
        parts = text.split(self.conclusion) if self.conclusion else []
        return parts[0].strip() if len(parts) == 2 else None

    def reply(self, text: str) -> str:
        """The text without its reasoning, also in templates that do not ask for tags; "" if the reasoning is cut."""
        return _outside_reasoning(text)

    def summary(self, text: str) -> str:
        """The text after the reasoning, without answer tags, stripped; "" if the reasoning does not end."""
        if not self.tags:
            return text.strip()
        _, end, after = text.partition("</think>")
        return re.sub(r"</?answer>", "", after).strip() if end else ""

    def well_formed(self, text: str) -> bool:
        """True if the four tags appear once each and in order, with only white space outside the two pairs.

        With prose, any text may surround the answer after the reasoning. Without tags, the text must be one number, or
        reasoning, the conclusion and one number, or have exactly one block of Python code after its reasoning, which
        may contain blocks of its own; the block must be closed.
        """
        if self.code:
            after = self.reply(text)
            return len(_BLOCK.findall(after)) == 1 and after.count("```") == 2
        if not self.tags and not self.conclusion:
            return parse_number(text) is not None
        if not self.tags:
            return bool(self.reasoning(text)) and parse_number(text.partition(self.conclusion)[2]) is not None
        order = _WITH_PROSE if self.prose else _IN_ORDER
        return all(text.count(tag) == 1 for tag in TAGS) and order.fullmatch(text) is not None


def _outside_reasoning(text: str) -> str:
    """The text without its reasoning; a text without think tags has none.

    If the first tag is ``</think>``, the prompt opened the reasoning, so it starts at the beginning of the text.
    """
    parts = _THINK.split(text)
    kept = [] if parts[1:2] == ["</think>"] else [parts[0]]
    kept += [part for tag, part in zip(parts[1::2], parts[2::2], strict=True) if tag == "</think>"]
    return "".join(kept)


@functools.lru_cache(maxsize=2**16)
def _prompt_ids(template: Template, problem: Problem, tokenizer: Tokenizer) -> array[int]:
    if template.chat:
        prompt = tokenizer.render(template.messages(problem)).text
        rest = unopened(prompt, template.prefill)
        return array("i", tokenizer.encode(prompt + _space_before(template, rest, tokenizer) + rest))
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return array("i", bos + tokenizer.encode(template.question(problem) + template.prefill))


def unopened(prompt: str, text: str) -> str:
    """The assistant's text without the leading think tag if the prompt has already opened it."""
    opened, inside = _OPENED.search(prompt), text.lstrip().removeprefix("<think>")
    if not opened or inside == text.lstrip():
        return text
    return inside.removeprefix(opened[0].removeprefix("<think>"))


@functools.lru_cache(maxsize=8)
def _space_before(template: Template, text: str, tokenizer: Tokenizer) -> str:
    """White space that the chat template writes between its prompt and the assistant's text, as Llama 2's does.

    It does not depend on the problem, so it is rendered once per template and tokenizer instead of once per prompt.
    """
    if not text:
        return ""
    messages = template.messages(ANY)
    prompt = tokenizer.render(messages).text
    try:
        whole = tokenizer.render([*messages, {"role": "assistant", "content": text}], add_generation_prompt=False).text
    except UserError:  # some templates refuse a reply that is not complete
        return ""
    after = whole.removeprefix(prompt).lstrip()
    return whole[len(prompt) : -len(after)] if whole.startswith(prompt) and after.startswith(text) else ""


def completion_text(ids: Sequence[int], prompt: Sequence[int], tokenizer: Tokenizer) -> str:
    """Text of sampled ids without the end token, which is recognised by its id.

    The ids are decoded after the last ids of the prompt, since SentencePiece decoders drop a space at the start.
    """
    sampled = list(ids[:-1] if ids and ids[-1] in tokenizer.eos_ids else ids)
    before = list(prompt[-8:])
    return tokenizer.decode([*before, *sampled])[len(tokenizer.decode(before)) :]


def _between(text: str, start: str, end: str) -> str | None:
    """The text between two tags, stripped; None unless each appears once and in order."""
    if text.count(start) != 1 or text.count(end) != 1:
        return None
    before, _, inside = text.partition(start)
    return None if end in before else inside.partition(end)[0].strip()


# The published template of R1-Zero (arXiv 2501.12948, table 1), paraphrased.
_R1_ZERO = (
    "The assistant answers the user's question. It first reasons about the question in its mind, then gives the user "
    "the answer. The reasoning is written inside <think> </think> and the answer inside <answer> </answer>, like this: "
    "<think> reasoning </think> <answer> answer </answer>."
)

# For base models that reason in prose and would not learn the tags from rewards alone.
_STEPS = "Think step by step, then end with: The answer is NUMBER."

_CODE = "Reply with the code in one block that starts with ```python and ends with ```."

TEMPLATES = {
    template.name: template
    for template in (
        Template("think", "{question}\n", expression="{question} = ?"),
        Template("r1-zero", f"{_R1_ZERO}\n\nUser: {{question}}\n\nAssistant:\n"),
        Template("r1-zero-chat", "{question}", chat=True, system=_R1_ZERO),
        Template("r1", "{question}", chat=True, prose=True),
        Template("steps", f"{{question}} {_STEPS}", chat=True, prefill="", tags=False, conclusion="The answer is"),
        Template("code", f"{{question}}\n\n{_CODE}", chat=True, prefill="", tags=False, code=True),
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
    """The template in TEMPLATES with this name; raises UserError for an unknown name."""
    return lookup("template", name, TEMPLATES)
