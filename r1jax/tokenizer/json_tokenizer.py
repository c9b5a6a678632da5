"""Tokenizers of tokenizer.json files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from r1jax.data.text.template import TAGS
from r1jax.errors import UserError
from r1jax.tokenizer.base import BaseTokenizer
from r1jax.tokenizer.byte_pieces import BytePieces, byte_characters
from r1jax.tokenizer.declarations import read_declarations, register


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class JsonTokenizer(BaseTokenizer):
    """A tokenizer.json, or any other tokenizer of the tokenizers library."""

    backend: tokenizers.Tokenizer

    @property
    def vocab_size(self) -> int:
        """Highest id plus one: Tokenizer.vocab_size."""
        return self._highest + 1

    @functools.cached_property
    def _highest(self) -> int:
        # The number of entries may be smaller: the ids of a vocabulary may have gaps.
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def _controls(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(id for id, token in added.items() if token.special and token.content not in TAGS)

    def encode(self, text: str) -> list[int]:
        """Ids of a text: Tokenizer.encode."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode."""
        return self.backend.decode(self._without_controls(list(map(int, ids))), skip_special_tokens=False)

    def decode_batch(self, rows: Sequence[np.ndarray]) -> list[str]:
        """Text of the ids of each row: Tokenizer.decode_batch."""
        if self._pieces is not None:
            return self._pieces.decode(rows)
        kept = [self._without_controls(row.tolist()) for row in rows]
        return self.backend.decode_batch(kept, skip_special_tokens=False)

    @functools.cached_property
    def _pieces(self) -> BytePieces | None:
        """The bytes of the tokens; None if the text is not that of their bytes side by side."""
        if not isinstance(self.backend.decoder, tokenizers.decoders.ByteLevel):
            return None
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}

        def piece(id: int) -> bytes:
            token = self.token(id)
            if id in self._controls:
                return b""
            known = all(character in byte_of for character in token)
            return bytes(byte_of[character] for character in token) if known else token.encode()

        return BytePieces([piece(id) for id in range(self.vocab_size)])

    def _without_controls(self, ids: Sequence[int]) -> Sequence[int]:
        return ids if self._controls.isdisjoint(ids) else [i for i in ids if i not in self._controls]

    def token(self, id: int) -> str:
        """String of one id."""
        return self.backend.id_to_token(id) or ""

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._as_declared().save(str(Path(folder) / "tokenizer.json"))
        self.save_declarations(Path(folder), "PreTrainedTokenizerFast")

    def _as_declared(self) -> tokenizers.Tokenizer:
        """The backend with a post-processor that adds bos if and only if bos_id is set."""
        before, after = _added_ids(self.backend)
        wanted = [] if self.bos_id is None else [self.bos_id]
        if before[:1] == wanted:
            return self.backend
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.post_processor = _post_processor(*([(self.token(i), i) for i in ids] for ids in (wanted, after)))
        return copy


def load_json_tokenizer(file: Path, config: Mapping[str, Any]) -> JsonTokenizer:
    """Reads a tokenizer.json; ``config`` holds the tokenizer_config.json of its folder.

    Raises UserError as load_tokenizer does.
    """
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{file} is not a readable tokenizer.json ({error}): replace it") from error
    backend.no_truncation()
    backend.no_padding()
    register(backend, file.parent, config)
    before, _ = _added_ids(backend)
    own = {"bos": backend.id_to_token(before[0])} if before else {}
    fields = read_declarations(file.parent, config, backend.token_to_id, backend.id_to_token, own)
    return JsonTokenizer(backend=backend, **fields)


def bos_processor(token: str, id: int) -> tokenizers.processors.TemplateProcessing:
    """Post-processor of the tokenizers library that adds a token before each text."""
    return _post_processor([(token, id)], [])


def _post_processor(
    before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]
) -> tokenizers.processors.TemplateProcessing:
    single, pair = ([*(token for token, _ in before), text, *(token for token, _ in after)] for text in ("$A", "$B"))
    return tokenizers.processors.TemplateProcessing(
        single=single, pair=[*single, *pair], special_tokens=[*dict.fromkeys([*before, *after])]
    )


def _added_ids(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor of a tokenizer.json adds before and after each text."""
    plain, full = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:at], full[at + len(plain) :]
