"""Prompts of a conversation: in the model's chat template, as plain text, or in a template of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from r1jax.chat.thinking import OPEN
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES, Template, find_template
from r1jax.errors import UserError
from r1jax.tokenizer import Tokenizer

AUTO, PLAIN = "auto", "plain"
_SPEAKERS = {"system": "", "user": "User: ", "assistant": "Assistant: "}
_ENDING = 16  # ids at the end of a prompt in which the opened tag is looked for

Message = Mapping[str, str]  # "role" and "content"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How messages become the ids of a prompt.

    kind: "chat" for the chat template, "plain", or "training" for ``template``.
    note: a sentence for the user about what differs from a chat template; "" if nothing does.
    stops: texts that end a reply, beside the end tokens.
    """

    tokenizer: Tokenizer
    kind: str
    template: Template | None = None
    note: str = ""
    stops: tuple[str, ...] = ()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt for the assistant's next message.

        Raises UserError if the chat template refuses the messages, or the layout has no place for a system prompt.
        """
        if self.kind == "chat":
            return self.tokenizer.chat(messages)
        if self.template is not None:
            if any(message["role"] == "system" for message in messages):
                raise UserError(f"--template={self.template.name} has no place for a system prompt: leave --system out")
            return self.template.prompt_ids(Problem(messages[-1]["content"], "", ""), self.tokenizer)
        turns = [_SPEAKERS[message["role"]] + message["content"] for message in messages]
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return bos + self.tokenizer.encode("\n\n".join([*turns, "Assistant:"]))

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """True if the prompt ends with the opened think tag."""
        return self.tokenizer.decode(list(prompt[-_ENDING:])).rstrip().endswith(OPEN)


def find_layout(name: str, tokenizer: Tokenizer) -> Layout:
    """The layout of a name: auto (the chat template, or plain if there is none), plain, or a template of training.

    Raises UserError for an unknown name, and for a template that needs a chat template which the tokenizer lacks.
    """
    has_template = tokenizer.chat_template is not None
    if name == AUTO and has_template:
        return Layout(tokenizer, "chat")
    if name in (AUTO, PLAIN):
        note = 'messages are written as "User: ..." and "Assistant: ..."'
        why = "this model has no chat template: " if not has_template else ""
        return Layout(tokenizer, "plain", note=why + note, stops=("\nUser:",))
    if name not in TEMPLATES:
        raise UserError(f"--template={name}: expected one of {', '.join((AUTO, PLAIN, *TEMPLATES))}")
    template = find_template(name)
    if template.chat and not has_template:
        raise UserError(f"--template={name} needs a chat template, which this model lacks: use --template={PLAIN}")
    note = f"--template={name} asks each message alone, as in training: earlier turns are not in the prompt"
    return Layout(tokenizer, "training", template, note)
