"""Reads the tokenizer of a folder."""

from __future__ import annotations

from pathlib import Path

from r1jax.errors import UserError
from r1jax.tokenizer.base import Tokenizer
from r1jax.tokenizer.declarations import read_config
from r1jax.tokenizer.json_tokenizer import load_json_tokenizer
from r1jax.tokenizer.sentencepiece_tokenizer import load_sentencepiece_tokenizer


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads tokenizer.json or, if there is none, tokenizer.model.

    Raises UserError if the folder has neither, a file is damaged, no end token is declared, or a declared token has no
    id.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (file := folder / "tokenizer.json").is_file():
        return load_json_tokenizer(file, config)
    if (file := folder / "tokenizer.model").is_file():
        return load_sentencepiece_tokenizer(file, config)
    raise UserError(f"{folder} has no tokenizer.json and no tokenizer.model: copy one there")
