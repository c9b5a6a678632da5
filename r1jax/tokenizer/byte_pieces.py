"""The bytes of byte-level BPE, and the decoding of many texts at once from the bytes of their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_PART = 2**16  # tokens whose bytes are joined at once, so that the arrays stay in the processor's cache


class BytePieces:
    """The bytes of each token, and texts made of them; ids without a piece are skipped.

    pieces: of the ids from 0 on.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(pieces) + b"\0", np.uint8)
        self._lengths = np.array([*map(len, pieces), 0], np.int32)  # the last is of all ids beyond the table
        self._starts = np.cumsum(self._lengths, dtype=np.int32) - self._lengths

    def decode(self, rows: Sequence[np.ndarray]) -> list[str]:
        """The text of each row of ids; bytes that are no character become U+FFFD, as in the tokenizers library."""
        texts: list[str] = []
        sizes = np.array([len(row) for row in rows])
        borders = np.flatnonzero(np.diff(np.cumsum(sizes) // _PART)) + 1
        for part in np.split(np.arange(len(rows)), borders) if len(rows) else []:
            of_part = slice(part[0], part[-1] + 1)
            joined, ends = self._join(np.concatenate(rows[of_part]), np.cumsum(sizes[of_part]))
            texts += [joined[a:b].decode(errors="replace") for a, b in itertools.pairwise([0, *ends])]
        return texts

    def _join(self, ids: np.ndarray, ends: np.ndarray) -> tuple[bytes, list[int]]:
        """The bytes of ids, and the number of bytes before each of the places ``ends`` in them."""
        known = np.minimum(ids, len(self._lengths) - 1)
        lengths = self._lengths[known]
        after = np.cumsum(lengths, dtype=np.int32)
        source = np.repeat(self._starts[known] - (after - lengths), lengths)
        source += np.arange(len(source), dtype=np.int32)
        return self._bytes[source].tobytes(), np.concatenate([[0], after])[ends].tolist()


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE, in byte order (as in GPT-2)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = {byte: 256 + i for i, byte in enumerate(sorted(set(range(256)) - set(kept)))}
    return [chr(moved.get(byte, byte)) for byte in range(256)]
