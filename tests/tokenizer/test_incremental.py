"""Pieces of incremental text together are the text of all ids, and no piece ends inside a character."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from r1jax.data.text.template import completion_text
from r1jax.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from r1jax.tokenizer.incremental import IncrementalText
from tests.helpers.paths import FIXTURES
from tests.helpers.tokenizers import pieces

TEXTS = [
    "",
    "plain words",
    " a  b\n\nc ",
    "über 漢字 and 😀\u200d🔬 end",
    "7 + 5 = 12",
    "<think>日本</think>12",
    "\ufffd kept",
]


@pytest.fixture(scope="module", params=["bytes", "json", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    if request.param == "json":
        return load_tokenizer(FIXTURES / "qwen3")
    folder: Path = pieces(tmp_path_factory.mktemp("pieces"), {"eos_token": "</s>"})
    return load_tokenizer(folder)


@pytest.mark.parametrize("prompt", ["", "Say it:"])
def test_the_pieces_are_the_whole_text(tokenizer: Tokenizer, prompt: str) -> None:
    before = tokenizer.encode(prompt)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stream = IncrementalText(tokenizer, before)
        parts = [stream.add(id) for id in ids]
        assert "".join([*parts, stream.rest()]) == completion_text(ids, before, tokenizer)
        assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


def test_any_bytes_give_the_text_that_they_give_together() -> None:
    """Characters cut short, bytes that belong to none, and end tokens among them."""
    tokenizer, draw = ByteTokenizer(), random.Random(0)
    some = [*"aé漢😀".encode(), 0x80, 0xFF, 0xF0, 257]
    for _ in range(300):
        ids = [draw.choice(some) for _ in range(draw.randrange(12))]
        stream = IncrementalText(tokenizer)
        assert "".join([*(stream.add(id) for id in ids), stream.rest()]) == tokenizer.decode(ids)


def test_a_character_is_held_back_until_its_last_byte() -> None:
    stream = IncrementalText(ByteTokenizer())
    assert [stream.add(byte) for byte in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]
    cut = IncrementalText(ByteTokenizer())
    assert [cut.add(byte) for byte in "😀".encode()[:2]] == ["", ""] and set(cut.rest()) == {"\ufffd"}


def test_the_cost_of_an_id_does_not_grow_with_the_text() -> None:
    class Counting(ByteTokenizer):
        longest = 0

        def decode(self, ids):
            type(self).longest = max(self.longest, len(ids))
            return super().decode(ids)

    stream = IncrementalText(Counting())
    for id in "漢字".encode() * 200:
        stream.add(id)
    assert Counting.longest < 20
