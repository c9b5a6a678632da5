"""Tokenizers and their chat templates: one protocol for SentencePiece, tokenizer.json, GGUF vocabularies and bytes."""

from r1jax.tokenizer.base import Tokenizer
from r1jax.tokenizer.byte_level import ByteTokenizer
from r1jax.tokenizer.json_tokenizer import JsonTokenizer
from r1jax.tokenizer.load import load_tokenizer
from r1jax.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = ["ByteTokenizer", "JsonTokenizer", "SentencePieceTokenizer", "Tokenizer", "load_tokenizer"]
