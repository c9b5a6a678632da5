"""Several sequences in a row of the forward pass, so that an update computes the tokens that there are."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.sharding import constrain, data_devices

_SIZES = 16  # numbers of rows that a program is compiled for: multiples of a sixteenth of the sequences


@flax.struct.dataclass
class Packing:
    """Where each of B sequences lies in the rows of its microbatch; part p of n has the sequences p, p + n, p + 2n, ...

    The sequences of a part that one device of the data axis has are in rows of that device, and no state of a token
    moves between devices.
    """

    start: Any  # [B] int32: first position in the rows of the device, counted through
    begin: Any  # [B] int32: positions before the first token of the completion
    end: Any  # [B] int32: positions that the sequence takes, one less than its tokens
    rows: int = flax.struct.field(pytree_node=False)  # of a part on one device
    first: int = flax.struct.field(pytree_node=False)  # no completion begins before this position of its sequence


class Places(NamedTuple):
    """Positions of the tokens of one part in its rows, on each of S devices; out of range where there is no token."""

    tokens: jax.Array  # [S, m / S * T] int32, of position t of each sequence
    completions: jax.Array  # [S, C] int32, of the tokens of completions alone
    chosen: jax.Array  # [S, C] int32: the index of the same tokens in ``tokens``


def plan(begin: np.ndarray, end: np.ndarray, width: int, parts: int, devices: int) -> tuple[np.ndarray, Packing] | None:
    """An order of B sequences [B], and their packing into rows of ``width`` positions; None if it saves no row.

    begin, end: [B], as in Packing. In the order, sequences are dealt to the parts and devices by length, so that all
    have about the same number of tokens; then each takes the first row of its part that has room, longest first.
    """
    B, bins = len(end), parts * devices
    size = B // bins  # sequences of a part on a device
    by_length = np.argsort(-end, kind="stable").reshape(size, bins)
    by_length[1::2] = by_length[1::2, ::-1].copy()  # to and fro, so that no bin always gets the longer one
    starts, used = np.empty((size, bins), np.int64), 0
    for column in range(bins):
        starts[:, column], rows = _first_fit(end[by_length[:, column]], width)
        used = max(used, rows)
    step = max(1, size // _SIZES)
    rows = -(-used // step) * step
    if rows >= size:
        return None

    # Bin p * devices + d holds the sequences of part p on device d. Sequence j of part p is at p + j * parts, and a
    # device has neighbouring j.
    def arranged(x: np.ndarray) -> np.ndarray:  # [size, bins] -> [B]
        return x.reshape(size, parts, devices).transpose(2, 0, 1).reshape(-1)

    order = arranged(by_length)
    numbers = (arranged(starts), begin[order], end[order])
    return order, Packing(*(x.astype(np.int32) for x in numbers), rows=rows, first=first_position(begin))


def first_position(begin: np.ndarray) -> int:
    """A position that no completion begins before; a multiple of 32, since each value compiles another program."""
    return int(begin.min()) // 32 * 32


def _first_fit(lengths: np.ndarray, width: int) -> tuple[list[int], int]:
    """The first position of each sequence in rows of this width, counted through, and the number of rows."""
    filled = np.zeros(len(lengths), np.int64)
    starts = []
    for length in lengths.tolist():
        row = int(np.argmax(filled + length <= width))
        starts.append(row * width + int(filled[row]))
        filled[row] += length
    return starts, int(np.count_nonzero(filled))


def places(packing: Packing, width: int) -> Places:
    """Where the tokens of a part of m sequences, of ``width`` positions each, lie in its rows."""
    devices, t = data_devices(), jnp.arange(width)
    start, begin, end = (
        constrain(x.reshape(devices, -1, 1), "batch", None, None) for x in (packing.start, packing.begin, packing.end)
    )
    size, room = start.shape[1], packing.rows * width
    at = jnp.where(t < end, start + t, room).reshape(devices, -1)
    within = ((t >= begin) & (t < end)).reshape(devices, -1)
    # The rows have room for all sequences, so for no more tokens of completions than this.
    count = room - size * packing.first
    chosen = jax.vmap(lambda x: jnp.nonzero(x, size=count, fill_value=x.size)[0])(within)
    return Places(at, jnp.take_along_axis(at, chosen, 1, mode="fill", fill_value=room), chosen)


def packed_rows(tokens: jax.Array, packing: Packing, at: Places) -> tuple[jax.Array, jax.Array]:
    """Tokens [m, T] of a part in its rows: [R, T] int32, and the sequence of each token, from 1; 0 is padding.

    at: the places of the part.
    """
    (devices, count), width = at.tokens.shape, tokens.shape[1]
    numbers = jnp.broadcast_to(1 + jnp.arange(count) // width, (devices, count))

    def row(at: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.zeros(packing.rows * width, jnp.int32).at[at].set(values, mode="drop")

    pair = (jax.vmap(row)(at.tokens, x).reshape(-1, width) for x in (tokens.reshape(devices, -1), numbers))
    rows, segments = (constrain(x, "batch", None) for x in pair)
    return rows, segments
