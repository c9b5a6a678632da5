"""Sampling with rings that start short and grow, so that the cache follows the live sequences.

A level is a length of rings. At each level, a compiled loop decodes until a sequence has filled its ring. The live
sequences then move to longer rings, in as many slots as they need and as memory allows. The youngest sequences for
which there is no slot return to the queue and start again. Since a token depends only on (key, sequence id, position)
and the policy, they draw the same tokens again.

A draft for few sequences (Sampling.draft_slots) starts with a level that has as few slots: what the rings keep moves to
caches of the slots. When the queue starts at the first level again, the draft starts anew.

Slots take new sequences at levels with at least half as many slots as the first one. At others, the queue waits until
all live sequences have ended, and sampling starts at the first level again.

The host reads a few numbers after each loop and chooses the next one, so only loops that occur are compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from r1jax.models.cache import Ring, SlotCache, split_cache
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import Cached
from r1jax.sampling.memory import Level
from r1jax.sampling.over_queues import CACHE, ROWS, STATE, over_queues
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import NONE, Queue, State, in_order, refill
from r1jax.sharding import data_devices


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop that has ended."""

    slots: int  # over all devices
    length: int  # tokens for which a ring has room
    steps: int  # of all loops so far, most among the queues


LEAST_SLOTS = 8  # on each device: fewer take as long, and kernels of products with few rows need a multiple


def slots_of_queue(level: Level, sequences: int, queues: int) -> int:
    """Slots of each queue in a level: a power of two that suffices for ``sequences``, or as many as memory allows.

    queues: 1 if all devices share one, whose slots they split evenly.
    """
    share = data_devices() // queues
    needed = max(LEAST_SLOTS, -(-sequences // share))
    return share * min(level.slots // data_devices(), 1 << (needed - 1).bit_length())


def fewer_slots(slots: int, queues: int) -> int:
    """The loop with the longest rings ends early when so few sequences of each queue are live; 0: when all ended.

    It is a quarter of the slots, so that few programs are compiled.
    """
    share = data_devices() // queues
    own = slots // share
    return share * max(LEAST_SLOTS, 1 << (own // 4).bit_length() - 1) if own >= 2 * LEAST_SLOTS else 0


def proposals_with(slots: int, queues: int, sampling: Sampling) -> int:
    """Tokens that a step proposes with this number of slots of each queue; 0 if it decodes one token."""
    few = slots <= sampling.draft_slots * (data_devices() // queues)
    return sampling.proposals if sampling.draft == "mtp" or few else 0


def refills(levels: tuple[Level, ...], at: int) -> bool:
    """True if slots take new sequences at a level."""
    return 2 * levels[at].slots >= levels[0].slots


def run_level(
    step: Callable[[State], State], state: State, fewer: int, longest: bool, filling: bool
) -> tuple[State, jax.Array]:
    """Repeats ``step`` until a sequence fills its ring, or all sequences have ended.

    Args:
      step: decodes one token per slot, or several.
      state: with at least one live sequence.
      fewer: with the longest rings, the loop also ends when no sequence follows and at most so many are live.
      longest: no ring is longer, so none is full before its sequence ends.
      filling: slots take new sequences.

    Returns:
      The state, and [1, 4] int32: live sequences, waiting sequences, 1 if a ring is full, and the steps of all loops.
    """
    N, entries = state.order.shape[0], state.cache.layers[0][0].shape[-2]
    reach = 1 if state.proposed is None else 1 + state.proposed.shape[1]  # entries that a step writes

    def live(state: State) -> jax.Array:
        return state.sequence < N

    def full(state: State) -> jax.Array:
        return jnp.array(False) if longest else (live(state) & (state.age + reach > entries)).any()

    def goes_on(state: State) -> jax.Array:
        few = live(state).sum() <= (fewer if longest else 0)
        return ~(few & (state.next >= N) if filling else few) & ~full(state)

    def without_queue(state: State) -> State:
        return dataclasses.replace(step(dataclasses.replace(state, next=jnp.full_like(state.next, N))), next=state.next)

    state = jax.lax.while_loop(goes_on, step if filling else without_queue, state)
    numbers = live(state).sum(), N - jnp.minimum(state.next, N), full(state), state.step
    return state, jnp.stack([x.astype(jnp.int32) for x in numbers])[None]


def move(
    state: State, queue: Queue, slots: int, entries: int, filling: bool, proposals: int, config: ModelConfig
) -> State:
    """Moves the oldest live sequences to ``slots`` slots of each queue with rings of ``entries`` entries.

    Other live sequences return to the front of the queue. Slots that remain idle take the next sequences if
    ``filling``. The next steps verify ``proposals`` tokens; without live sequences, these may be fewer than before.
    The cache moves layer by layer, and that of ``state`` is deleted, so old and new cache are never in memory together.
    """
    cache, rest = state.cache, dataclasses.replace(state, cache=Ring(()))
    rest, kept = _move_slots(rest, queue, slots, filling, proposals, config)
    ring = isinstance(cache, Ring)
    age = rest.age if ring and proposals else None
    layers: list[Cached] = []
    for layer in cache.layers:
        layers.append(_move_layer(layer, kept, rest.step, queue, entries, ring, age, config))
        for x in layer:
            x.delete()
    kind = SlotCache if proposals else Ring
    return dataclasses.replace(rest, cache=kind(tuple(layers)))


@partial(jax.jit, static_argnames=("slots", "filling", "proposals", "config"))
def _move_slots(
    state: State, queue: Queue, slots: int, filling: bool, proposals: int, config: ModelConfig
) -> tuple[State, jax.Array]:
    """The state without its cache in ``slots`` slots of each queue, and the present slots [slots] of what it keeps."""
    choose = partial(_choose_slots, slots=slots, filling=filling, proposals=proposals)
    return over_queues(choose, queue, state, config=config, split=STATE, out=(STATE, ROWS))


def _choose_slots(queue: Queue, state: State, slots: int, filling: bool, proposals: int) -> tuple[State, jax.Array]:
    N = state.order.shape[0]
    live = state.sequence < N
    ranked = jnp.argsort(jnp.where(live, -state.age, 1))  # the oldest first, idle slots last
    others = ranked[slots:]
    kept = jnp.pad(ranked[:slots], (0, slots - len(ranked[:slots])))  # slots after the present ones are idle
    sent_back = state.sequence[others]  # N in idle slots, which mode="drop" ignores
    first = jnp.minimum(state.next, N) - live[others].sum()  # these places of the order are free: they were taken
    places = jnp.where(live[others], first + jnp.arange(len(others)), N)
    old = state.samples

    def without(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else x.at[sent_back].set(0, mode="drop")

    sequence = jnp.where(jnp.arange(slots) < len(ranked), state.sequence[kept], N)
    proposed = jnp.full((slots, proposals), NONE) if proposals else None
    if proposed is not None and state.proposed is not None:
        proposed = jnp.where((sequence < N)[:, None], state.proposed[kept], NONE)
    samples = dataclasses.replace(
        old,
        tokens=without(old.tokens),
        logprobs=without(old.logprobs),
        sampling_logprobs=without(old.sampling_logprobs),
        proposed=without(old.proposed),
        accepted=without(old.accepted),
    )
    moved = dataclasses.replace(
        state,
        next=first.astype(jnp.int32),
        order=state.order.at[places].set(sent_back, mode="drop"),
        sequence=sequence,
        token=state.token[kept],
        age=state.age[kept],
        samples=samples,
        proposed=proposed,
    )
    return refill(moved, moved.token, moved.sequence >= N, queue, 0) if filling else moved, kept


@partial(jax.jit, static_argnames=("length", "ring", "config"))
def _move_layer(
    layer: Cached,
    kept: jax.Array,
    step: jax.Array,
    queue: Queue,
    length: int,
    ring: bool,
    age: jax.Array | None = None,
    config: ModelConfig | None = None,
) -> Cached:
    """The caches of the slots ``kept`` in one layer, with ``length`` entries. ``step`` is the next one.

    In a ring, an entry belongs to the newest step before ``step`` that is congruent to it modulo the length. With
    ``age``, rings become caches of the slots, with the ``age`` newest entries of each.
    """

    def one(queue: Queue, local: tuple[Cached, jax.Array, jax.Array, jax.Array | None]) -> Cached:
        layer, kept, step, age = local
        if age is not None:
            return tuple(in_order(x[kept], step.reshape(()), age, length) for x in layer)
        return tuple(longer(x[kept], step.reshape(()) - 1) for x in layer)

    def longer(x: jax.Array, newest: jax.Array) -> jax.Array:
        entries = x.shape[-2]
        if length != entries and ring:
            x = jnp.take(x, (newest - (newest - jnp.arange(length)) % length) % entries, axis=-2)
        elif length != entries:
            x = jnp.pad(x[..., :length, :], (*[(0, 0)] * (x.ndim - 2), (0, max(0, length - entries)), (0, 0)))
        return split_cache(x, "slots")

    split = (CACHE, ROWS, ROWS, ROWS)
    return over_queues(one, queue, (layer, kept, step, age), config=config, split=split, out=CACHE)
