"""A conversation: its messages, its commands and its record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r1jax.chat.display import Display
from r1jax.chat.prompts import Layout
from r1jax.chat.reply import Replies, Reply
from r1jax.disk import write_whole
from r1jax.errors import UserError

HELP = """/reset         start a new conversation with the same system prompt
/system TEXT   start a new conversation with this system prompt; without TEXT, with none
/think         show the thinking of the last reply
/save FILE     write the conversation to FILE, as a line of JSON that fine-tuning reads
/help          show this list
/exit          end the chat, as Ctrl-D does
Ctrl-C stops a reply and keeps the conversation. A line that ends in \\ continues; // at its start sends one /."""


class Session:
    """A conversation with a model.

    Args:
      replies: draws the replies.
      layout: the form of the prompts.
      display: shows the replies.
      system: the system prompt; "" for none.
      out: file to which each turn is added as a line of JSON; None for none.
      about: fields of each of these lines, such as the model and the sampling settings.
      stopped: True once the user has asked to stop the current reply.
    """

    def __init__(
        self,
        replies: Replies,
        layout: Layout,
        display: Display,
        *,
        system: str = "",
        out: Path | None = None,
        about: dict[str, Any] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._replies, self._layout, self._display = replies, layout, display
        self._out, self._about, self._stopped = out, about or {}, stopped
        self._turns = 0  # of the whole chat: each has its own random key
        self._last: Reply | None = None
        self._start(system)

    def _start(self, system: str) -> None:
        self._system = system
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []

    def ask(self, text: str) -> Reply:
        """Draws, shows and records the reply to a message.

        The thinking does not become part of the conversation, as in the published use of R1. A reply without an answer
        is not kept, nor is its message.

        Raises:
          UserError: if the conversation is beyond the context, or the chat template refuses it. It is left unchanged.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt = self._layout.prompt_ids(messages)
        reply = self._replies.reply(prompt, self._turns, self._display.show, self._stopped)
        self._display.end(reply)
        self._record(text, reply)
        self._turns += 1
        self._last = reply
        if reply.answer:
            self.messages = [*messages, {"role": "assistant", "content": reply.answer}]
        else:
            self._display.say("the reply has no answer: this turn is not kept in the conversation")
        return reply

    def _record(self, text: str, reply: Reply) -> None:
        if self._out is None:
            return
        row = {"turn": self._turns, **self._about, "system": self._system, "prompt": text}
        row |= {"thinking": reply.thinking, "answer": reply.answer, "finish": reply.finish}
        row |= dataclasses.asdict(reply.timings) | {"tokens_per_second": reply.timings.tokens_per_second}
        with _writing(self._out), self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_rounded(row), ensure_ascii=False) + "\n")

    def line(self, text: str) -> bool:
        """Handles one line of input, a message or a command; False if it ends the chat. Mistakes become one line."""
        text = text.strip()
        try:
            if text.startswith("/") and not text.startswith("//"):
                return self._command(*text.partition(" ")[::2])
            if text:
                self.ask(text.removeprefix("/"))
        except UserError as error:
            self._display.say(f"error: {error}")
        return True

    def _command(self, name: str, argument: str) -> bool:
        argument = argument.strip()
        match name:
            case "/exit" | "/quit":
                return False
            case "/reset":
                self._start(self._system)
                self._display.say("a new conversation")
            case "/system":
                self._start(argument)
                self._display.say(f"a new conversation with {'this' if argument else 'no'} system prompt")
            case "/think":
                if self._last is None or not self._last.thinking:
                    raise UserError("no reply with thinking yet: ask something first")
                self._display.recall(self._last.thinking)
            case "/save":
                self._save(argument)
            case "/help":
                self._display.say(HELP)
            case _:
                raise UserError(f"{name} is not a command: /help lists them, and // sends a message that starts with /")
        return True

    def _save(self, name: str) -> None:
        if not name:
            raise UserError("/save has no file: /save FILE")
        if not any(message["role"] == "assistant" for message in self.messages):
            raise UserError("the conversation has no reply yet: ask something first")
        path = Path(name).expanduser()
        with _writing(path):
            write_whole(path, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
        self._display.say(f"{len(self.messages)} messages written to {path}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another file") from error


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
