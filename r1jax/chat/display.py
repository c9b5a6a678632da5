"""Replies on a terminal, where the thinking is dimmed and folded, and in a file or pipe, as plain text."""

from __future__ import annotations

import re
import sys
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r1jax.chat.reply import Reply, Timings
from r1jax.chat.thinking import CLOSE, OPEN, Piece

_ROWS = 10  # of the thinking that are visible while it arrives
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model must not control the terminal

_FINISHES = {
    "length": "the reply has reached --max-tokens",
    "context": "the reply has reached the end of the model's context: /reset starts again",
    "stopped": "stopped by Ctrl-C",
}


class Display(Protocol):
    """Shows replies piece by piece."""

    def show(self, piece: Piece, timings: Timings) -> None:
        """Shows the next piece; ``timings`` are those at its end."""
        ...

    def end(self, reply: Reply) -> None:
        """Shows the statistics of the reply, after its last piece."""
        ...

    def say(self, line: str) -> None:
        """Shows a line that belongs to no reply."""
        ...

    def recall(self, thinking: str) -> None:
        """Shows the whole thinking of a reply again."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was, also in the middle of a reply."""
        ...


def statistics(reply: Reply) -> str:
    """One line: tokens, tokens per second, time to the first token, time to usefulness, and how the reply ended."""
    timings = reply.timings
    parts = [_count(timings.tokens)]
    if (rate := timings.tokens_per_second) is not None:
        parts.append(f"{rate:.1f} tokens/s")
    if timings.first_token_seconds is not None:
        parts.append(f"first token {timings.first_token_seconds:.2f} s")
    if timings.thinking_tokens:
        useful = timings.useful_seconds
        parts.append("thinking not ended" if useful is None else f"time to usefulness {useful:.2f} s")
    if timings.compile_seconds:
        parts.append(f"compiled in {timings.compile_seconds:.1f} s")
    if reply.finish in _FINISHES:
        parts.append(_FINISHES[reply.finish])
    return ", ".join(parts)


def _count(tokens: int) -> str:
    return f"{tokens:,} token" + ("" if tokens == 1 else "s")


def folded(timings: Timings) -> str:
    """The line that replaces the thinking: "thought for 3.2 s, 214 tokens"."""
    seconds, ended = timings.useful_seconds, True
    if seconds is None:
        seconds, ended = timings.seconds, False
    verb = "thought for" if ended else "thinking stopped after"
    return f"{verb} {seconds:.1f} s, {_count(timings.thinking_tokens)} (/think shows it)"


class PlainDisplay:
    """Writes replies as text without control codes, with the think tags, and statistics to another stream."""

    def __init__(self, output: TextIO | None = None, log: TextIO | None = None) -> None:
        self._output, self._log = output or sys.stdout, log or sys.stderr
        self._thinking = False
        self._line_ended = True

    def show(self, piece: Piece, timings: Timings) -> None:
        """Writes the piece."""
        if piece.thinking != self._thinking:
            self._write(OPEN if piece.thinking else CLOSE)
            self._thinking = piece.thinking
        self._write(piece.text)

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
        self._line_ended = text.endswith("\n")

    def end(self, reply: Reply) -> None:
        """Ends the line of the reply and writes the statistics."""
        if self._thinking and reply.timings.useful_seconds is not None:  # the answer is empty
            self._write(CLOSE)
        if not self._line_ended:
            self._write("\n")
        self._thinking, self._line_ended = False, True
        self.say(statistics(reply))

    def say(self, line: str) -> None:
        """Writes a line to the log."""
        print(line, file=self._log, flush=True)

    def recall(self, thinking: str) -> None:
        """Writes the thinking."""
        self._write(f"{OPEN}{thinking}{CLOSE}\n")

    def close(self) -> None:
        """Does nothing, since each piece is written at once."""


class TerminalDisplay:
    """Shows the newest lines of the thinking dimmed, replaces them by one line, and then shows the answer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._thought = ""
        self._answered = False

    def show(self, piece: Piece, timings: Timings) -> None:
        """Shows the piece."""
        text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", piece.text)
        if piece.thinking:
            self._thought += text
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(self._newest(), refresh=True)
            return
        self._fold(timings)
        if not self._answered:
            text = text.lstrip()
        if text:
            self._answered = True
            self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    def _newest(self) -> Text:
        """The last rows of the thinking, as wide as the terminal."""
        rows = max(1, min(_ROWS, self._console.height - 2))
        recent = self._thought[-rows * self._console.width :].lstrip()
        lines = Text(recent, style="dim").wrap(self._console, self._console.width)
        return Text("\n").join(lines[-rows:])

    def _fold(self, timings: Timings) -> None:
        if self._live is not None:
            self.close()
            self.say(folded(timings))

    def end(self, reply: Reply) -> None:
        """Ends the line of the reply and shows the statistics."""
        self._fold(reply.timings)
        if self._answered:
            self._console.print()
        self._thought, self._answered = "", False
        self.say(statistics(reply))

    def say(self, line: str) -> None:
        """Shows a dimmed line."""
        self._console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    def recall(self, thinking: str) -> None:
        """Shows the thinking dimmed."""
        self.say(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", thinking))

    def close(self) -> None:
        """Ends the area of the thinking, which hides the cursor."""
        if self._live is not None:
            self._live.stop()
            self._live = None
