"""Tokenizers of SentencePiece's tokenizer.model files."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from r1jax.data.text.template import TAGS
from r1jax.errors import UserError
from r1jax.tokenizer.base import ANCHOR, BaseTokenizer
from r1jax.tokenizer.declarations import added_tokens, read_declarations


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SentencePieceTokenizer(BaseTokenizer):
    """A tokenizer.model."""

    backend: sentencepiece.SentencePieceProcessor
    legacy: bool = True  # as in transformers: text after a control token is encoded like the start of a text
    add_prefix_space: bool | None = None  # a space before the whole text; None: the model decides, for each part

    @property
    def vocab_size(self) -> int:
        """Number of pieces: Tokenizer.vocab_size."""
        return self.backend.vocab_size()

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        # SentencePiece never matches control pieces in a text, and may split other pieces that are declared as tokens.
        ids = [i for i in range(self.backend.vocab_size()) if self.backend.is_control(i)]
        declared = [self.eos_ids[0], self.pad_id, *([] if self.bos_id is None else [self.bos_id])]
        return {self.backend.id_to_piece(i): i for i in (*ids, *declared)}

    @functools.cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        names = sorted(self._controls, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Ids of a text: Tokenizer.encode."""
        ids: list[int] = []
        for i, part in enumerate(self._control_pattern.split(text)):
            if part in self._controls:
                ids.append(self._controls[part])
            elif self.add_prefix_space is None:
                ids += self.backend.encode(part)
            elif part:
                prefixed = i == 0 and self.add_prefix_space and not part.startswith(" ")
                ids += self._encode_continuation(" " + part if prefixed else part)
        return ids

    def _encode_continuation(self, text: str) -> list[int]:
        """Ids of a text that follows another text, without the model's prefix."""
        before, unknown = self.backend.encode(ANCHOR), self.backend.unk_id()
        ids = self.backend.encode(ANCHOR + text)[len(before) :]
        # Without byte fallback, the anchor and the unknown characters after it are merged into one unknown piece.
        joined = before[-1] == unknown and self.backend.encode(text[0])[-1:] == [unknown]
        return [unknown, *ids] if joined else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode. Ids outside the vocabulary are skipped: the model may have more rows."""
        controls = {id: name if name in TAGS else "" for name, id in self._controls.items()}
        text, part = "", []
        start = True
        for id in map(int, ids):
            if id in controls:
                text += self._decode_part(part, start) + controls[id]
                part, start = [], False
            elif id < self.backend.vocab_size():
                part.append(id)
        return text + self._decode_part(part, start)

    def decode_batch(self, rows: Sequence[np.ndarray]) -> list[str]:
        """Text of the ids of each row: Tokenizer.decode_batch."""
        return [self.decode(row.tolist()) for row in rows]

    def _decode_part(self, ids: list[int], start: bool) -> str:
        """Text of ids without control tokens; ``start``: they are the first of the text."""
        if self.add_prefix_space is None or not ids:
            return self.backend.decode(ids)
        before = self.backend.encode(ANCHOR)
        text = self.backend.decode([*before, *ids])[len(self.backend.decode(before)) :]
        return text.removeprefix(" ") if start and self.add_prefix_space else text

    def token(self, id: int) -> str:
        """Piece of one id."""
        return self.backend.id_to_piece(id)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.model, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.model").write_bytes(self.backend.serialized_model_proto())
        # transformers does not read the prefix from the model. Its LlamaTokenizer is exact only for BPE models.
        prefix = _adds_prefix(self.backend) if self.add_prefix_space is None else self.add_prefix_space
        self.save_declarations(Path(folder), "LlamaTokenizer", add_prefix_space=prefix, legacy=self.legacy)


def load_sentencepiece_tokenizer(file: Path, config: Mapping[str, Any]) -> SentencePieceTokenizer:
    """Reads a tokenizer.model; ``config`` holds the tokenizer_config.json of its folder.

    Raises UserError as load_tokenizer does.
    """
    folder, model = file.parent, sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(file.read_bytes())
    except Exception as error:  # RuntimeError, or the binding's own types
        raise UserError(f"{file} is not a readable SentencePiece model: replace it") from error

    def token_of(id: int) -> str | None:
        return model.id_to_piece(id) if 0 <= id < model.vocab_size() else None

    def id_of(piece: str) -> int | None:
        id = model.piece_to_id(piece)
        return None if id == model.unk_id() and piece != token_of(id) else id

    for id, token in added_tokens(folder, config).items():
        if token_of(id) != token.content:
            raise UserError(
                f"{folder} adds {token.content!r} to tokenizer.model as id {id}: save the tokenizer from transformers "
                "as tokenizer.json, which holds both"
            )
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id()}
    own = {name: model.id_to_piece(id) for name, id in ids.items() if id >= 0}
    legacy = True if config.get("legacy") is None else bool(config["legacy"])
    prefix = True if config.get("add_prefix_space") is None else bool(config["add_prefix_space"])
    if legacy and (prefix or not _adds_prefix(model)):
        prefix = None
    fields = read_declarations(folder, config, id_of, token_of, own)
    return SentencePieceTokenizer(backend=model, legacy=legacy, add_prefix_space=prefix, **fields)


def _adds_prefix(model: sentencepiece.SentencePieceProcessor) -> bool:
    """True if a SentencePiece model puts a space before each text."""
    return model.encode_as_pieces("a")[0].startswith("▁")
