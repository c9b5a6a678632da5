"""Separates the thinking of a reply from its answer while the text arrives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

OPEN, CLOSE = "<think>", "</think>"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a reply, without its tags."""

    text: str
    thinking: bool  # False: part of the answer


class ThinkingSplitter:
    """Splits a text that arrives in parts into thinking and answer.

    The thinking is the text inside ``<think>`` at the start of the reply, or from the start if the prompt has opened
    the tag. Later tags are text of the answer. A part of a tag, or of a text that ends the reply, is held back.

    Args:
      opened: True if the prompt ends with ``<think>``.
      stops: texts that end the answer and do not belong to it.
    """

    def __init__(self, opened: bool, stops: Sequence[str] = ()) -> None:
        self.thinking = opened
        self.stopped = False  # True after one of the stops
        self._started = opened
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> list[Piece]:
        """The pieces that are certain after this text."""
        return [] if self.stopped else self._split(self._held + text, last=False)

    def rest(self) -> list[Piece]:
        """The pieces that are held back, when no text follows."""
        return [] if self.stopped else self._split(self._held, last=True)

    def _split(self, text: str, last: bool) -> list[Piece]:
        self._held = ""
        if not self._started:
            start = text.lstrip()
            if start.startswith(OPEN):
                text, self.thinking = start.removeprefix(OPEN), True
            elif not last and OPEN.startswith(start):
                self._held = text
                return []
            self._started = True
        pieces = []
        if self.thinking:
            inside, close, text = text.partition(CLOSE)
            if not close:
                return self._without_beginnings(inside, (CLOSE,), last)
            pieces = [Piece(inside, True)]
            self.thinking = False
        found = [text.index(stop) for stop in self._stops if stop in text]
        if found:
            self.stopped = True
            return _filled([*pieces, Piece(text[: min(found)], False)])
        return _filled(pieces) + self._without_beginnings(text, self._stops, last)

    def _without_beginnings(self, text: str, marks: Sequence[str], last: bool) -> list[Piece]:
        """The text up to the beginning of a mark at its end, which is held back unless the text is the last."""
        held = 0 if last else max((_beginning(text, mark) for mark in marks), default=0)
        self._held = text[len(text) - held :]
        return _filled([Piece(text[: len(text) - held], self.thinking)])


def _beginning(text: str, mark: str) -> int:
    """Length of the longest end of the text that is a beginning of the mark, but not all of it."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


def _filled(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.text]
