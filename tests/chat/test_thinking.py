"""Thinking and answer of a reply that arrives in parts, cut at every place."""

from __future__ import annotations

import pytest

from r1jax.chat.thinking import Piece, ThinkingSplitter

CASES = [  # text, prompt opens the tag, thinking, answer
    ("<think>7 + 5</think>12", False, "7 + 5", "12"),
    ("\n <think>7 < 5</thin</think>\n\n12", False, "7 < 5</thin", "\n\n12"),
    ("7 + 5</think> 12", True, "7 + 5", " 12"),
    ("no end", True, "no end", ""),
    ("12", False, "", "12"),
    ("  12 <think>literal</think>", False, "", "  12 <think>literal</think>"),
    ("<thin air", False, "", "<thin air"),
    ("<think></think>12", False, "", "12"),
    ("<think>a</think>b</think>c", False, "a", "b</think>c"),
    ("", False, "", ""),
    ("<thi", False, "", "<thi"),
]


def split(parts: list[str], opened: bool, stops: tuple[str, ...] = ()) -> tuple[list[Piece], ThinkingSplitter]:
    splitter = ThinkingSplitter(opened, stops)
    pieces = [piece for part in parts for piece in splitter.add(part)]
    return pieces + splitter.rest(), splitter


def joined(pieces: list[Piece], thinking: bool) -> str:
    return "".join(piece.text for piece in pieces if piece.thinking == thinking)


@pytest.mark.parametrize(("text", "opened", "thinking", "answer"), CASES)
def test_thinking_and_answer_do_not_depend_on_the_cuts(text: str, opened: bool, thinking: str, answer: str) -> None:
    cuts = [[text], list(text)] + [[text[:i], text[i:]] for i in range(len(text))]
    for parts in cuts:
        pieces, splitter = split(parts, opened)
        assert (joined(pieces, True), joined(pieces, False)) == (thinking, answer)
        assert all(piece.text for piece in pieces)
        assert splitter.thinking == (text == "no end")


def test_text_appears_as_soon_as_it_is_certain() -> None:
    splitter = ThinkingSplitter(True)
    assert splitter.add("a <") == [Piece("a ", True)]
    assert splitter.add("b</") == [Piece("<b", True)]
    assert splitter.add("think>c") == [Piece("c", False)]
    assert splitter.add(" d") == [Piece(" d", False)]


def test_a_stop_text_ends_the_answer_and_not_the_thinking() -> None:
    text = "a\nUser: b</think>c\nUse d\nUser: e"
    for parts in ([text], list(text)):
        pieces, splitter = split(parts, True, ("\nUser:",))
        assert joined(pieces, True) == "a\nUser: b" and joined(pieces, False) == "c\nUse d"
        assert splitter.stopped and splitter.add("more") == [] and splitter.rest() == []
    pieces, splitter = split(["c\nUs"], False, ("\nUser:",))
    assert joined(pieces, False) == "c\nUs" and not splitter.stopped
