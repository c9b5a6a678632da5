"""Several texts to a row: first-fit packing, with the segments that keep them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """The tokens [n] int32 of a text, and the mask [n] bool of those whose prediction is learned."""

    tokens: np.ndarray
    mask: np.ndarray


def pack(examples: Sequence[Example], width: int, bins: int = 32) -> Iterator[dict[str, np.ndarray]]:
    """Rows of texts in their order: "tokens" [width + 1], and "mask" and "segments" [width], for cross_entropy_sums.

    Each text goes whole into the first of ``bins`` open rows where it fits. Segments count from 1 in every row; 0 is
    padding. A text's first token is never marked, since what stands before it is another text.

    Raises:
      UserError: where there are no texts, or one is longer than width + 1 tokens; nothing is cut in silence.
    """
    if not examples:
        raise UserError("no examples to pack")
    longest = max(len(example.tokens) for example in examples)
    if longest > width + 1:
        raise UserError(f"an example has {longest} tokens and a row {width + 1}: raise the width or drop the example")
    elements = [{"tokens": e.tokens.astype(np.int32), "mask": e.mask.astype(bool)} for e in examples]
    rows = grain.experimental.FirstFitPackIterDataset(
        grain.MapDataset.source(elements).to_iter_dataset(),
        length_struct={"tokens": width + 1, "mask": width + 1},
        num_packing_bins=bins,
        shuffle_bins=False,
    )
    for row in rows:
        first = row["tokens_positions"] == 0
        yield {
            "tokens": row["tokens"],
            "mask": (row["mask"].astype(bool) & ~first)[1:],
            "segments": row["tokens_segment_ids"][:-1],
        }
