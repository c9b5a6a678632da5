"""Small tokenizers, and the ids that transformers gives to texts of the fixtures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from gguf import TokenType

from r1jax.tokenizer import JsonTokenizer
from r1jax.tokenizer.byte_pieces import byte_characters
from r1jax.tokenizer.gguf_vocabulary import read_vocabulary
from tests.helpers.paths import FIXTURES

EXPECTED = json.loads((FIXTURES / "tokenizers" / "expected.json").read_text())
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def pieces(tmp_path: Path, config: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A tokenizer.model with SentencePiece's BPE and byte fallback, like Llama's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["seven and five make twelve", "[ 7 + 5 = 12 ]", "add the two numbers"] * 9),
        model_writer=model,
        model_type="bpe",
        vocab_size=310,
        hard_vocab_limit=False,
        pad_id=3,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **{"byte_fallback": True, **settings},
    )
    tmp_path.mkdir(parents=True, exist_ok=True)
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return tmp_path


def of_gguf(kind: TokenType, **metadata: Any) -> JsonTokenizer:
    """A GGUF vocabulary of the bytes, the tags as tokens of the given kind, <eos> and <s>."""
    tokens = [*byte_characters(), *TAGS, "<eos>", "<s>"]
    types = [int(TokenType.NORMAL)] * 256 + [int(kind)] * 4 + [int(TokenType.CONTROL)] * 2
    ids = {"tokenizer.ggml.eos_token_id": 260, "tokenizer.ggml.bos_token_id": 261}
    base = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return read_vocabulary({**base, "tokenizer.ggml.pre": "gpt-2", **ids, **metadata}, Path("model.gguf"))
