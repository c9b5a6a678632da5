"""The batch that updates read: its layout, and its split into minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.rl.packing import Packing, first_position, plan
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
    """The tokens of prompts and completions side by side, which no reward changes."""

    tokens: jax.Array  # [B, T + 1] int32 as in Batch, on the devices
    experts: jax.Array | None  # [B, T, L, k] as in Batch, on the devices
    within: np.ndarray  # [B, T] bool: the tokens of completions
    sampled: np.ndarray  # [B, M] bool: the same tokens in arrays of samples
    spans: np.ndarray  # [B, 2] int32: begin and end of r1jax.rl.packing.Packing
    first: int  # as in Batch

    def place(self, values: Any) -> np.ndarray:
        """Values [B, M] of samples at the positions [B, T] of a batch; zeros elsewhere."""
        return _placed(values, self.within, self.sampled)


def lay_out(prompts: Sequence[Sequence[int]], samples: Samples, longest: int) -> Layout:
    """The layout of a batch; arguments as in build_batch."""
    B, starts = len(prompts), np.array([len(prompt) for prompt in prompts])
    lengths, M = np.asarray(samples.lengths), samples.tokens.shape[1]
    T = width_bucket(int((starts + lengths).max()) - 1, longest - 1)
    # Both masks list the completions' tokens row by row, so that one indexes the other's values.
    sampled = np.arange(M) < lengths[:, None]  # [B, M]
    place = np.arange(T) - (starts[:, None] - 1)  # [B, T], of each position in the completion
    within = (place >= 0) & (place < lengths[:, None])
    tokens = np.zeros((B, T + 1), np.int32)
    tokens[:, 1:] = _placed(samples.tokens, within, sampled)
    tokens[np.arange(T + 1) < starts[:, None]] = np.concatenate([np.asarray(prompt) for prompt in prompts])
    placed, experts = jax.device_put((tokens, _expert_rows(samples, within)), batch_sharding())
    spans = np.stack([starts - 1, starts - 1 + lengths], axis=1).astype(np.int32)
    return Layout(placed, experts, within, sampled, spans, first_position(spans[:, 0]))


def _placed(values: Any, within: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    out = np.zeros(within.shape, values.dtype)
    out[within] = np.asarray(values)[sampled]
    return out


def _expert_rows(samples: Samples, within: np.ndarray) -> np.ndarray | None:
    """samples.experts, cut or padded with zeros to the width of the batch, and 0 after each text."""
    if samples.experts is None:
        return None
    experts = np.asarray(samples.experts)
    width = min(experts.shape[1], within.shape[1])
    rows = np.zeros((*within.shape, *experts.shape[2:]), experts.dtype)
    rows[:, :width] = experts[:, :width]
    last = within.shape[1] - np.argmax(within[:, ::-1], axis=1)  # tokens that are read
    rows[np.arange(within.shape[1]) >= last[:, None]] = 0
    return rows


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
      samples: B samples on the host.
      longest: tokens of the longest possible prompt and completion together.
      layout: of these prompts and samples; None: it is made here.
      counts: [B] bool; a sequence that does not count has no loss and enters no mean. None: all count.
      rewards, advantages: [B]; None: zeros.
      rule_rewards: name -> [B].
      pack: the updates compute several sequences in a row.
    """
    layout = layout or lay_out(prompts, samples, longest)
    within = layout.within
    zeros = np.zeros(within.shape, np.float32)
    fields: dict[str, Any] = {
        "tokens": layout.tokens,
        "mask": within if counts is None else within & counts[:, None],
        "rewards": zeros[:, 0] if rewards is None else rewards.astype(np.float32),
        "rule_rewards": {name: values.astype(np.float32) for name, values in (rule_rewards or {}).items()},
        "advantages": zeros[:, 0] if advantages is None else advantages.astype(np.float32),
        "sampler_logprobs": layout.place(samples.logprobs),
        "sampling_logprobs": layout.place(samples.sampling_logprobs),
        "old_logprobs": zeros,
        "reference_logprobs": zeros,
        "experts": layout.experts,
        "spans": layout.spans if pack else None,
    }
    return jax.device_put(Batch(**fields, first=layout.first), batch_sharding())


@partial(jax.jit, static_argnames="n")
def split_minibatches(key: jax.Array, counts: jax.Array, n: int) -> jax.Array:
    """Rows of a batch in a random order, split into n minibatches: [n, B / n] int32 for counts [B] bool.

    The K rows that count are distributed evenly: each minibatch has K / n of them, rounded down or up.
    """
    order = jax.random.permutation(key, len(counts))
    order = order[jnp.argsort(~counts[order], stable=True)]
    return constrain(order.reshape(-1, n).T, None, None)  # whole on every host


def minibatches(batch: Batch, key: jax.Array, n: int, microbatches: int) -> list[Batch]:
    """The batch in n parts, at random; the batch itself if n is 1.

    With spans, each part has the order and the packing of its sequences in ``microbatches`` parts, if that saves rows.
    """
    if n == 1 and batch.spans is None:
        return [batch]
    parts = split_minibatches(key, batch.mask.any(axis=1), n) if n > 1 else jnp.arange(len(batch.mask))[None]
    if batch.spans is None:
        return [_part(batch, parts, number) for number in range(n)]
    rows, spans = (np.array(x) for x in jax.device_get((parts, batch.spans)))
    packings = []
    for number, of_part in enumerate(rows):
        order, packing = planned(spans[of_part], batch.mask.shape[1], microbatches) or (slice(None), None)
        rows[number] = of_part[order]
        packings.append(packing)
    return [dataclasses.replace(_part(batch, rows, i), packing=packing) for i, packing in enumerate(packings)]


def planned(spans: np.ndarray, width: int, parts: int) -> tuple[Any, Packing] | None:
    """r1jax.rl.packing.plan of sequences with these spans [B, 2], for the entered mesh and on its devices."""
    found = plan(spans[:, 0], spans[:, 1], width, parts, data_devices())
    return found and (found[0], jax.device_put(found[1], batch_sharding()))


@jax.jit  # one program for all arrays and all parts
def _part(batch: Batch, parts: jax.Array, number: jax.Array | int) -> Batch:
    """The rows parts[number] of a batch; parts: from split_minibatches."""
    rows = parts[number]
    return jax.tree.map(lambda x: x[rows], batch)
