"""Several sequences in a row of the forward pass, so that an update computes the tokens that there are.

The rows of a batch are split into parts of a fixed number of rows, and a loop goes over the parts that there are. So
the lengths of the sequences change the number of iterations, and not the program.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.sharding import constrain, data_devices

# Rows of a part on a device, beside the limit of a microbatch. Smaller products are slower, and each part reads all
# weights and adds to all gradients. Larger ones are not faster, and the rows that the last part lacks are computed.
_LEAST, _MOST = 4096, 16_384  # positions
_LEAST_PARTS, _MOST_PARTS = 4, 16  # parts if no row is saved; limits of positions and microbatch come first
_TOGETHER = 256  # sequences of a part at most, relative to its rows; a row has at most half of them
_SHARES = 8  # the tokens of completions that a part has room for are a multiple of this share of its positions


@flax.struct.dataclass
class Packing:
    """Where each of B sequences lies in the rows of which part.

    Device d of D has the sequences d * B/D, ..., (d + 1) * B/D - 1, in rows of its own, so that no state of a token
    moves between devices.
    """

    start: Any  # [B] int32: first position in the rows of its part, counted through
    begin: Any  # [B] int32: positions before the first token of the completion
    end: Any  # [B] int32: positions that the sequence takes, one less than its tokens
    members: Any  # [D, N, m] int32: the sequences of each part, counted on their device; B/D marks an unused place
    parts: Any  # [] int32: parts that have sequences, the first of the N
    rows: int = flax.struct.field(pytree_node=False)  # of a part on a device
    completions: int = flax.struct.field(pytree_node=False)  # tokens of completions of a part on a device, at most


@flax.struct.dataclass
class Part:
    """Where m sequences lie in the rows of one part; as in Packing. end is 0 where there is no sequence."""

    start: Any  # [m] int32
    begin: Any  # [m] int32
    end: Any  # [m] int32
    rows: int = flax.struct.field(pytree_node=False)
    completions: int = flax.struct.field(pytree_node=False)


class Places(NamedTuple):
    """Positions of the tokens of one part in its rows, on each of D devices; out of range where there is no token."""

    tokens: jax.Array  # [D, m / D * T] int32, of position t of each sequence
    completions: jax.Array  # [D, C] int32, of the tokens of completions alone
    chosen: jax.Array  # [D, C] int32: the index of the same tokens in ``tokens``


def plan(
    begin: np.ndarray, end: np.ndarray, width: int, microbatch: int, devices: int
) -> tuple[np.ndarray, Packing] | None:
    """An order of B sequences [B], and their packing into rows of ``width`` positions; None if it saves no row.

    begin, end: [B], as in Packing. microbatch: rows of a part at most, over all devices. In the order, sequences are
    dealt to the devices by length, so that all have about the same number of tokens; then each takes the fullest row
    of its device that has room, longest first, and the rows are dealt to the parts by their tokens of completions.
    """
    size = len(end) // devices  # sequences of a device
    wanted = max(size // _MOST_PARTS, min(-(-_LEAST // width), size // _LEAST_PARTS))
    rows = max(1, min(wanted, _MOST // width, microbatch // devices))
    together = min(size, _TOGETHER * rows)
    order = _dealt(np.argsort(-end, kind="stable"), devices).reshape(-1)
    begin, end = begin[order], end[order]
    lengths, sampled = end.reshape(devices, size), (end - begin).reshape(devices, size)
    packed = [_best_fit(of_device, width, -(-together // 2)) for of_device in lengths]
    parts = max(-(-int(row.max() + 1) // rows) for row, _ in packed)
    while parts * rows < size:
        dealt = [_deal_rows(row, count, parts) for (row, _), count in zip(packed, sampled, strict=True)]
        if max(np.bincount(part).max() for part, _ in dealt) <= together:
            break
        parts += 1
    else:
        return None
    members = np.full((devices, -(-size // rows), together), size)
    start, most = np.empty((devices, size), np.int64), 0
    for d, ((part, place), (_, offset)) in enumerate(zip(dealt, packed, strict=True)):
        start[d] = place * width + offset
        most = max(most, int(np.bincount(part, sampled[d]).max()))
        for p in range(parts):
            found = np.flatnonzero(part == p)
            members[d, p, : len(found)] = found
    share = -(-rows * width // _SHARES)
    numbers = (x.astype(np.int32) for x in (start.reshape(-1), begin, end, members))
    completions = min(-(-most // share) * share, rows * width)
    return order, Packing(*numbers, parts=np.int32(parts), rows=rows, completions=completions)


def first_position(begin: np.ndarray) -> int:
    """A position that no completion begins before; a multiple of 32, since each value compiles another program."""
    return int(begin.min()) // 32 * 32


def _dealt(numbers: np.ndarray, hands: int) -> np.ndarray:
    """Numbers dealt to and fro, so that no hand always gets the larger one: [hands, ...], filled up with -1."""
    dealt = np.pad(numbers, (0, -len(numbers) % hands), constant_values=-1).reshape(-1, hands)
    dealt[1::2] = dealt[1::2, ::-1].copy()
    return dealt.T


def _best_fit(lengths: np.ndarray, width: int, together: int) -> tuple[np.ndarray, np.ndarray]:
    """The row of each sequence, and its first position there; lengths in descending order.

    together: sequences in a row at most.
    """
    row, offset = np.empty((2, len(lengths)), np.int64)
    room: list[tuple[int, int]] = []  # free positions of the rows that are not full, and their numbers; ascending
    counts: list[int] = []  # sequences of each row
    for i, length in enumerate(lengths.tolist()):
        found = bisect_left(room, (length, 0))
        free, number = room.pop(found) if found < len(room) else (width, len(counts))
        if number == len(counts):
            counts.append(0)
        row[i], offset[i] = number, width - free
        counts[number] += 1
        if counts[number] < together:
            insort(room, (free - length, number))
    return row, offset


def _deal_rows(row: np.ndarray, sampled: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of each sequence and the place of its row there; all parts have about as many tokens of completions.

    row, sampled: [n], the row of each sequence and its tokens of completion.
    """
    dealt = _dealt(np.argsort(-np.bincount(row, sampled), kind="stable"), parts)
    part, place = np.empty((2, row.max() + 1), np.int64)
    for p, numbers in enumerate(dealt):
        numbers = numbers[numbers >= 0]
        part[numbers], place[numbers] = p, np.arange(len(numbers))
    return part[row], place[row]


def part_of(packing: Packing, rows: Any, p: jax.Array) -> tuple[Any, Part]:
    """Part p of a tree of arrays [B, ...] that are in the order of the plan: [m, ...] each, 0 for no sequence."""
    members = packing.members[:, p]  # [D, m / D]
    get_rows = jax.vmap(lambda x, at: x.at[at].get(mode="fill", fill_value=0))

    def taken(x: jax.Array) -> jax.Array:
        found = get_rows(_by_device(x, len(members)), members)
        return constrain(found.reshape(-1, *x.shape[1:]), "batch", *[None] * (x.ndim - 1))

    numbers = (packing.start, packing.begin, packing.end)
    rows, numbers = jax.tree.map(taken, (rows, numbers))
    return rows, Part(*numbers, rows=packing.rows, completions=packing.completions)


def _by_device(x: jax.Array, devices: int) -> jax.Array:
    """[B, ...] as [D, B / D, ...]."""
    return constrain(x.reshape(devices, -1, *x.shape[1:]), "batch", *[None] * x.ndim)


def with_part(whole: jax.Array, values: jax.Array, packing: Packing, p: jax.Array) -> jax.Array:
    """An array [B, ...] in the order of the plan, with ``values`` [m, ...] for the sequences of part p."""
    members = packing.members[:, p]
    set_rows = jax.vmap(lambda whole, values, at: whole.at[at].set(values, mode="drop"))
    found = set_rows(_by_device(whole, len(members)), _by_device(values, len(members)), members)
    return constrain(found.reshape(whole.shape), "batch", *[None] * (whole.ndim - 1))


def places(part: Part, width: int) -> Places:
    """Where the tokens of a part, whose sequences have ``width`` positions each, lie in its rows."""
    devices, t = data_devices(), jnp.arange(width)
    start, begin, end = (_by_device(x, devices)[..., None] for x in (part.start, part.begin, part.end))
    room = part.rows * width
    at = jnp.where(t < end, start + t, room).reshape(devices, -1)
    within = ((t >= begin) & (t < end)).reshape(devices, -1)
    chosen = jax.vmap(lambda x: jnp.nonzero(x, size=part.completions, fill_value=x.size)[0])(within)
    return Places(at, jnp.take_along_axis(at, chosen, 1, mode="fill", fill_value=room), chosen)


def packed_rows(tokens: jax.Array, part: Part, at: Places) -> tuple[jax.Array, jax.Array]:
    """Tokens [m, T] of a part in its rows: [R, T] int32, and the sequence of each token, from 1; 0 is padding.

    at: the places of the part.
    """
    (devices, count), width = at.tokens.shape, tokens.shape[1]
    numbers = jnp.broadcast_to(1 + jnp.arange(count) // width, (devices, count))

    def row(at: jax.Array, values: jax.Array) -> jax.Array:
        return jnp.zeros(part.rows * width, jnp.int32).at[at].set(values, mode="drop")

    pair = (jax.vmap(row)(at.tokens, x).reshape(-1, width) for x in (tokens.reshape(devices, -1), numbers))
    rows, segments = (constrain(x, "batch", None) for x in pair)
    return rows, segments
