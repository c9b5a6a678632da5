"""Vocabularies of GGUF files, rebuilt with the tokenizers library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from r1jax.errors import UserError
from r1jax.tokenizer.declarations import add_control_tokens
from r1jax.tokenizer.json_tokenizer import JsonTokenizer, bos_processor
from r1jax.tokenizer.pre_tokenizers import IGNORE_MERGES, NFC, PRE_TOKENIZERS


def read_vocabulary(metadata: Mapping[str, Any], source: Path) -> JsonTokenizer:
    """Builds the tokenizer of a GGUF file: byte-level BPE ("gpt2") or SentencePiece's BPE with scores ("llama").

    Raises UserError, which names the file ``source``, if the vocabulary or its pre-tokenizer is not supported.
    """
    model = metadata.get("tokenizer.ggml.model")
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", [])
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [int(TokenType.NORMAL)] * len(tokens)
    if model not in ("gpt2", "llama"):
        raise UserError(f"{source}: vocabulary tokenizer.ggml.model={model} is not supported; supported: gpt2, llama")
    if model == "gpt2" and (pre := metadata.get("tokenizer.ggml.pre", "default")) not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UserError(f"{source}: pre-tokenizer tokenizer.ggml.pre={pre} is not supported; supported: {known}")
    try:
        backend = _byte_level(tokens, metadata) if model == "gpt2" else _sentencepiece(tokens, types, metadata)
        # These strings are in the vocabulary, so ids do not change. Decoding skips control tokens.
        backend.add_special_tokens(_added(tokens, types, TokenType.CONTROL))
        backend.add_tokens(_added(tokens, types, TokenType.USER_DEFINED))
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise UserError(f"{source}: its vocabulary is inconsistent ({reason}): convert the file again") from error

    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom", "padding")}
    ids = {name: id for name, id in ids.items() if id is not None and id < len(tokens)}  # some files write -1 for none
    eos_ids = tuple(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    if not eos_ids:
        raise UserError(f"{source}: no end token is declared: set tokenizer.ggml.eos_token_id in the file")
    # Defaults of llama.cpp for missing keys.
    adds_bos = model == "llama" or metadata.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    add_control_tokens(backend, [tokens[id] for id in ids.values()])  # some files mark them as normal
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", len(tokens))
    bos_id = ids.get("bos") if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) else None
    if bos_id is not None:
        backend.post_processor = bos_processor(tokens[bos_id], bos_id)
    return JsonTokenizer(
        backend=backend,
        bos_id=bos_id,
        bos_token=tokens[ids["bos"]] if "bos" in ids else "",
        eos_ids=eos_ids,
        pad_id=ids.get("padding", eos_ids[0]),
        chat_template=metadata.get("tokenizer.chat_template"),
        config={"unk_token": tokens[unknown]} if unknown < len(tokens) else {},
    )


def _added(tokens: list[str], types: list[int], kind: TokenType) -> list[AddedToken]:
    matching = (token for token, own in zip(tokens, types, strict=True) if own == kind)
    return [AddedToken(token, special=kind == TokenType.CONTROL, normalized=False) for token in matching]


def _byte_level(tokens: list[str], metadata: Mapping[str, Any]) -> Backend:
    name = metadata.get("tokenizer.ggml.pre", "default")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges", [])]
    # The merges of Llama 3 do not produce every token of its vocabulary, so whole words are looked up first.
    whole_words = name in IGNORE_MERGES
    backend = Backend(models.BPE(vocab=_ids(tokens), merges=merges, ignore_merges=whole_words))
    cuts = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in PRE_TOKENIZERS[name]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level])
    if name in NFC:
        backend.normalizer = normalizers.NFC()  # as in Qwen's tokenizer.json; GGUF files do not store it
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(tokens: list[str], types: list[int], metadata: Mapping[str, Any]) -> Backend:
    scores = metadata["tokenizer.ggml.scores"]
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN), None)
    # SentencePiece merges the neighbours whose union has the highest score; BPE merges those with the lowest rank. So
    # each split of a piece into two pieces becomes a merge, ranked by the score of the whole.
    ids = _ids(tokens)
    mergeable = {t for t, kind in zip(tokens, types, strict=True) if kind in (TokenType.NORMAL, TokenType.USER_DEFINED)}
    merges = [
        (piece[:i], piece[i:])
        for piece in sorted(mergeable, key=lambda p: (-scores[ids[p]], ids[p]))
        for i in range(1, len(piece))
        if piece[:i] in mergeable and piece[i:] in mergeable
    ]
    backend = Backend(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    escape = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), escape]) if prefix else escape
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return backend


def _ids(tokens: list[str]) -> dict[str, int]:
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise ValueError(f"{next(token for id, token in enumerate(tokens) if ids[token] != id)!r} occurs twice")
    return ids
