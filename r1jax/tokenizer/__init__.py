"""Tokenizers and their chat templates: one protocol for SentencePiece, tokenizer.json, GGUF vocabularies and bytes."""

from r1jax.tokenizer.base import ANCHOR, Tokenizer
from r1jax.tokenizer.byte_level import ByteTokenizer
from r1jax.tokenizer.chat import Rendered
from r1jax.tokenizer.json_tokenizer import JsonTokenizer
from r1jax.tokenizer.load import load_tokenizer
from r1jax.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = [
    "ANCHOR",
    "ByteTokenizer",
    "JsonTokenizer",
    "Rendered",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
]
