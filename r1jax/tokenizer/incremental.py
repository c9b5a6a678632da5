"""Text of token ids that arrive one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.tokenizer.base import Tokenizer

_CONTEXT = 8  # ids before the first one that are decoded with it
_REPLACEMENT = "\ufffd"  # stands for bytes that are not, or not yet, a character


class IncrementalText:
    """Decodes token ids one at a time; the pieces together are the text of all ids.

    The bytes of a character may be several ids of byte-level BPE or of byte fallback: a piece that ends inside a
    character is held back. Only the newest ids are decoded at each call, so the cost does not grow with the text.

    Args:
      tokenizer: of the ids.
      before: the ids before the first one, such as the prompt: SentencePiece decoders drop a space at the start.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._keep(list(before[-_CONTEXT:]))

    def _keep(self, ids: list[int]) -> None:
        """Makes ``ids``, whose text has been returned, the context of the next ids."""
        self._ids, self._context = ids, len(ids)
        self._returned = len(self._tokenizer.decode(ids))

    def add(self, id: int) -> str:
        """The text that is complete with this id; "" if there is none."""
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids)
        complete = text.rstrip(_REPLACEMENT)
        piece = complete[self._returned :]
        if piece and complete == text:
            self._keep(self._ids[self._context :])
        else:
            self._returned += len(piece)
        return piece

    def rest(self) -> str:
        """The text that is still held back, when no id follows: replacement characters for incomplete ones."""
        piece = self._tokenizer.decode(self._ids)[self._returned :]
        self._returned += len(piece)
        return piece
