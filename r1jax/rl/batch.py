"""The batch that updates read: its layout, and its split into minibatches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.rl.packing import Packing, first_position, plan
from r1jax.sampling.queues import padded_prompts
from r1jax.sampling.slots import Samples
from r1jax.sharding import batch_sharding, constrain, data_devices


@flax.struct.dataclass
class Batch:
    """Sequences to learn from, split over the data axis. Position t of each [B, T] belongs to tokens[:, t + 1]."""

    tokens: jax.Array  # [B, T + 1] int32: prompt, completion, then padding
    mask: jax.Array  # [B, T] bool: the tokens of completions, in sequences that count
    rewards: jax.Array  # [B] float32
    rule_rewards: dict[str, jax.Array]  # name of a rule -> [B] float32, unweighted; nan if it does not apply
    advantages: jax.Array  # [B] float32, or [B, T] if the algorithm has prepared advantages per token
    sampler_logprobs: jax.Array  # [B, T] float32, of the policy, as computed by the sampler
    sampling_logprobs: jax.Array  # [B, T] float32, of the distribution that the tokens were sampled from
    old_logprobs: jax.Array  # [B, T] float32, of the policy before the first update; zeros until known
    reference_logprobs: jax.Array  # [B, T] float32; zeros until known
    experts: jax.Array | None = None  # [B, T, L, k], which each token used in sampling; None: not replayed
    targets: dict[str, Any] = flax.struct.field(default_factory=dict)  # of learned models: trees of [B, ...]
    spans: jax.Array | None = None  # [B, 2] int32: begin and end of Packing; None: the sequences are not packed
    packing: Packing | None = None  # of a minibatch whose rows are in the order of the plan
    first: int = flax.struct.field(pytree_node=False, default=0)  # the mask is false before this position in all rows


def width_bucket(width: int, longest: int) -> int:
    """Positions that a batch is padded to: a quarter of ``longest`` or a multiple, so that few programs are compiled.

    Rounded up to a multiple of 8 for attention kernels, so at most 7 more than ``longest``.
    """
    quarter = -(-longest // 4)
    return -(-min(-(-width // quarter) * quarter, longest) // 8) * 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """Prompts and completions side by side on the devices, with what no reward changes; fields as in Batch."""

    tokens: jax.Array  # [B, T + 1] int32
    within: jax.Array  # [B, T] bool: the tokens of completions
    sampler_logprobs: jax.Array  # [B, T] float32
    sampling_logprobs: jax.Array  # [B, T] float32
    experts: jax.Array | None  # [B, T, L, k]
    spans: np.ndarray  # [B, 2] int32: begin and end of r1jax.rl.packing.Packing
    first: int


def lay_out(prompts: Sequence[Sequence[int]], samples: Samples, longest: int) -> Layout:
    """The layout of a batch; arguments as in build_batch."""
    B, lengths = len(prompts), np.asarray(samples.lengths)
    starts = np.fromiter(map(len, prompts), np.int32, B)
    T = width_bucket(int((starts + lengths).max()) - 1, longest - 1)
    # The samples of a question share the list of its prompt, which is sent to the devices once.
    changes = [i for i in range(B) if not i or prompts[i] is not prompts[i - 1]]
    prompt_of = np.repeat(np.arange(len(changes), dtype=np.int32), np.diff([*changes, B]))
    sharding = batch_sharding()
    by_row = prompt_of, starts, lengths, samples.tokens, samples.logprobs, samples.sampling_logprobs, samples.experts
    arrays = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x, sharding), by_row)
    placed = _placing(sharding, T)(padded_prompts([prompts[i] for i in changes], T + 1), *arrays)
    spans = np.stack([starts - 1, starts - 1 + lengths], axis=1).astype(np.int32)
    return Layout(*placed, spans=spans, first=first_position(spans[:, 0]))


@functools.lru_cache(maxsize=16)
def _placing(sharding: jax.sharding.NamedSharding | None, width: int) -> Callable[..., tuple[Any, ...]]:
    """The program that makes the arrays of a Layout of this width, in the order of its fields."""
    return jax.jit(partial(_place, width=width), out_shardings=sharding)


def _place(
    prompts: jax.Array,
    prompt_of: jax.Array,
    starts: jax.Array,
    lengths: jax.Array,
    tokens: jax.Array,
    logprobs: jax.Array,
    sampling_logprobs: jax.Array,
    experts: jax.Array | None,
    width: int,
) -> tuple[jax.Array | None, ...]:
    """prompts: [P, T + 1], of which prompt_of [B] and starts [B] tokens are before the samples [B, M]."""
    at = jnp.arange(width + 1) - starts[:, None]  # [B, T + 1], of each token in its completion
    sampled = (at >= 0) & (at < lengths[:, None])

    def moved(values: jax.Array) -> jax.Array:
        found = jnp.take_along_axis(values, jnp.clip(at, 0, values.shape[1] - 1), axis=1)
        return jnp.where(sampled, found, jnp.zeros((), values.dtype))

    text = jnp.where(at < 0, prompts[prompt_of], moved(tokens)).astype(jnp.int32)
    if experts is not None:
        experts = experts[:, :width]
        experts = jnp.pad(experts, ((0, 0), (0, width - experts.shape[1]), (0, 0), (0, 0)))
        read = jnp.arange(width) < (starts - 1 + lengths)[:, None]
        experts = jnp.where(read[..., None, None], experts, jnp.zeros((), experts.dtype))
    return text, sampled[:, 1:], moved(logprobs)[:, 1:], moved(sampling_logprobs)[:, 1:], experts


def build_batch(
    prompts: Sequence[Sequence[int]],
    samples: Samples,
    longest: int,
    *,
    layout: Layout | None = None,
    counts: np.ndarray | None = None,
    rewards: np.ndarray | None = None,
    rule_rewards: Mapping[str, np.ndarray] | None = None,
    advantages: np.ndarray | None = None,
    pack: bool = False,
) -> Batch:
    """Prompts and completions side by side, on the devices of the entered mesh, split over the data axis.

    Args:
      prompts: token ids of the prompt of each of the B samples.
      samples: B samples, on the host or on all devices.
      longest: tokens of the longest possible prompt and completion together.
      layout: of these prompts and samples; None: it is made here.
      counts: [B] bool; a sequence that does not count has no loss and enters no mean. None: all count.
      rewards, advantages: [B]; None: zeros.
      rule_rewards: name -> [B].
      pack: the updates compute several sequences in a row.
    """
    layout, sharding = layout or lay_out(prompts, samples, longest), batch_sharding()
    B = len(prompts)
    per_sequence = {
        "rewards": np.zeros(B, np.float32) if rewards is None else rewards.astype(np.float32),
        "rule_rewards": {name: values.astype(np.float32) for name, values in (rule_rewards or {}).items()},
        "advantages": np.zeros(B, np.float32) if advantages is None else advantages.astype(np.float32),
        "spans": layout.spans if pack else None,
    }
    placed, counted = jax.device_put((per_sequence, counts), sharding)
    unknown = jnp.zeros(layout.within.shape, jnp.float32, device=sharding)
    return Batch(
        tokens=layout.tokens,
        mask=layout.within if counts is None else _counting(sharding)(layout.within, counted),
        sampler_logprobs=layout.sampler_logprobs,
        sampling_logprobs=layout.sampling_logprobs,
        old_logprobs=unknown,
        reference_logprobs=unknown,
        experts=layout.experts,
        first=layout.first,
        **placed,
    )


@functools.lru_cache(maxsize=16)
def _counting(sharding: jax.sharding.NamedSharding | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The program that leaves the rows [B] of a mask [B, T] that count."""
    return jax.jit(lambda mask, counts: mask & counts[:, None], out_shardings=sharding)


@partial(jax.jit, static_argnames="n")
def split_minibatches(key: jax.Array, counts: jax.Array, n: int) -> jax.Array:
    """Rows of a batch in a random order, split into n minibatches: [n, B / n] int32 for counts [B] bool.

    The K rows that count are distributed evenly: each minibatch has K / n of them, rounded down or up.
    """
    order = jax.random.permutation(key, len(counts))
    order = order[jnp.argsort(~counts[order], stable=True)]
    return constrain(order.reshape(-1, n).T, None, None)  # whole on every host


def minibatches(batch: Batch, key: jax.Array, n: int, microbatch: int) -> list[Batch]:
    """The batch in n parts, at random; the batch itself if n is 1.

    With spans, each part has the order and the packing of its sequences, if that saves rows; microbatch: as in plan.
    """
    if n == 1 and batch.spans is None:
        return [batch]
    parts = split_minibatches(key, batch.mask.any(axis=1), n) if n > 1 else jnp.arange(len(batch.mask))[None]
    if batch.spans is None:
        return [_part(batch, parts, number) for number in range(n)]
    rows, spans = (np.array(x) for x in jax.device_get((parts, batch.spans)))
    packings = []
    for number, of_part in enumerate(rows):
        order, packing = planned(spans[of_part], batch.mask.shape[1], microbatch) or (slice(None), None)
        rows[number] = of_part[order]
        packings.append(packing)
    return [dataclasses.replace(_part(batch, rows, i), packing=packing) for i, packing in enumerate(packings)]


def planned(spans: np.ndarray, width: int, microbatch: int) -> tuple[Any, Packing] | None:
    """r1jax.rl.packing.plan of sequences with these spans [B, 2], for the entered mesh and on its devices."""
    found = plan(spans[:, 0], spans[:, 1], width, microbatch, data_devices())
    if found is None:
        return None
    order, packing = found
    sharding = batch_sharding()
    return order, jax.tree.map(lambda x: jax.device_put(x, sharding) if x.ndim else x, packing)


@jax.jit  # one program for all arrays and all parts
def _part(batch: Batch, parts: jax.Array, number: jax.Array | int) -> Batch:
    """The rows parts[number] of a batch; parts: from split_minibatches."""
    rows = parts[number]
    return jax.tree.map(lambda x: x[rows], batch)
