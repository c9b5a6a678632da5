"""A tokenizer of UTF-8 bytes."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken

from r1jax.tokenizer.byte_pieces import byte_characters
from r1jax.tokenizer.json_tokenizer import JsonTokenizer, bos_processor


class ByteTokenizer(JsonTokenizer):
    """Ids are the bytes of the UTF-8 text; <bos> is 256, <eos> 257, <pad> 258. For small models and tests."""

    def __init__(self, chat_template: str | None = None) -> None:
        # Byte-level BPE without merges is the identity on bytes.
        vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<bos>", "<eos>", "<pad>")])
        backend.post_processor = bos_processor("<bos>", 256)
        super().__init__(
            backend=backend, bos_id=256, bos_token="<bos>", eos_ids=(257,), pad_id=258, chat_template=chat_template
        )
