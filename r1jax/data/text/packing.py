"""First-fit packing of several texts into a row, with segment ids that separate them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """The tokens [n] int32 of a text, and the mask [n] bool of the tokens that the model learns to predict."""

    tokens: np.ndarray
    mask: np.ndarray


def pack(examples: Sequence[Example], width: int, bins: int = 32) -> Iterator[dict[str, np.ndarray]]:
    """Yields rows of whole texts: "tokens" [width + 1], and "mask" and "segments" [width], for cross_entropy_sums.

    Each text goes into the first of ``bins`` open rows that has room for it. Segments are numbered from 1 in each row;
    0 is padding. The first token of a text is never in the mask, since the token before it belongs to another text.

    Raises:
      UserError: if there are no texts, or one is longer than width + 1 tokens; texts are never truncated.
    """
    if not examples:
        raise UserError("no examples to pack")
    longest = max(len(example.tokens) for example in examples)
    if longest > width + 1:
        raise UserError(f"an example has {longest} tokens and a row {width + 1}: raise the width or remove the example")
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
