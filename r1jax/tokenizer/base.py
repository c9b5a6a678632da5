"""The protocol of every tokenizer, and what the implementations share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from r1jax.errors import UserError
from r1jax.tokenizer.chat import Rendered, render
from r1jax.tokenizer.declarations import write_declarations

# A private-use character that no piece contains. Text after it is encoded and decoded as in the middle of a text.
ANCHOR = "\ue000"


class Tokenizer(Protocol):
    """Converts text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Highest id plus one, control tokens included. The vocabulary of the model may be larger."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that the model expects before a plain text; None if it was trained without one."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a generation, at least one; the first is the tokenizer's own end token."""
        ...

    @property
    def pad_id(self) -> int:
        """Declared padding id, or an end id if no padding token is declared."""
        ...

    @property
    def chat_template(self) -> str | None:
        """Jinja source that turns messages into a prompt."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text: neither bos nor eos is added, and strings of control tokens become their ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without control tokens except the tags of r1jax.data.text.template, which rewards read."""
        ...

    def decode_batch(self, rows: Sequence[np.ndarray]) -> list[str]:
        """``decode`` of each row of ids, in less time than one by one."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Rendered:
        """Text of messages (dicts with "role" and "content") in the chat template.

        Raises UserError if there is no template or if the template refuses the messages.
        """
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of the text that ``render`` returns."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the files from which load_tokenizer reads the same tokenizer."""
        ...


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """True if both tokenizers decode every id to the same text."""
    ids = range(one.vocab_size)
    return one.vocab_size == other.vocab_size and all(one.decode([i]) == other.decode([i]) for i in ids)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BaseTokenizer(abc.ABC):
    """Declared tokens, chat template and configuration files, which all implementations share."""

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    bos_token: str = ""  # bos_token of chat templates, also if bos_id is None
    chat_template: str | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # tokenizer_config.json as it was read
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # generation_config.json as it was read

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text: Tokenizer.encode."""

    @abc.abstractmethod
    def token(self, id: int) -> str:
        """String of one id."""

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Rendered:
        """Text of messages in the chat template: Tokenizer.render."""
        if self.chat_template is None:
            raise UserError(
                "this tokenizer has no chat template: use a plain prompt, or add chat_template to its "
                "tokenizer_config.json"
            )
        eos_token = self.token(self.eos_ids[0])
        return render(self.chat_template, messages, self.bos_token, eos_token, add_generation_prompt)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of messages in the chat template: Tokenizer.chat."""
        return self.encode(self.render(messages, add_generation_prompt).text)

    def save_declarations(self, folder: Path, tokenizer_class: str, **more: Any) -> None:
        """Writes tokenizer_config.json and generation_config.json."""
        own = {
            "tokenizer_class": tokenizer_class,
            "bos_token": self.bos_token or None,
            "eos_token": self.token(self.eos_ids[0]),
            "pad_token": self.token(self.pad_id),
            "add_bos_token": self.bos_id is not None,
            "chat_template": self.chat_template,
            **more,
        }
        eos = self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids)
        ids = {"bos_token_id": self.bos_id, "eos_token_id": eos, "pad_token_id": self.pad_id}
        write_declarations(folder, self.config, own, self.generation, ids)
