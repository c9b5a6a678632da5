"""Keys and values of decoding: a prefix shared by the samples of a prompt, and a ring of new tokens for each slot."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models import attention, mlp, rotary
from r1jax.models.config import ModelConfig
from r1jax.models.norm import rms_norm
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import embed, hidden_states
from r1jax.sharding import Params, constrain

RING_CHUNK = 512  # entries of the ring attended to at a time: cost follows the longest live sequence


@flax.struct.dataclass
class Prefix:
    """Keys and values of the prompts, one pair of arrays a layer."""

    keys: tuple[jax.Array, ...]  # L of [P, G, Tp, K]
    values: tuple[jax.Array, ...]  # L of [P, G, Tp, K]


@flax.struct.dataclass
class Ring:
    """Keys and values of the newest tokens, one pair of arrays a layer.

    At each step every slot writes at the same entry, the step modulo the ring's length, so that a write is one slice
    and never a scatter. A slot's own tokens are the ``age`` newest entries; what lies before belongs to sequences that
    have ended.
    """

    keys: tuple[jax.Array, ...]  # L of [S, G, R, K]
    values: tuple[jax.Array, ...]  # L of [S, G, R, K]


def ring_length(length: int) -> int:
    """Entries of a ring that holds ``length`` tokens: whole chunks where it is longer than one."""
    return length if length <= RING_CHUNK else -(-length // RING_CHUNK) * RING_CHUNK


def init_ring(slots: int, length: int, config: ModelConfig) -> Ring:
    """An empty ring for ``slots`` sequences of up to ``length`` tokens, in whole chunks."""
    shape = (slots, config.num_kv_heads, ring_length(length), config.head_dim)

    def empty() -> tuple[jax.Array, ...]:
        zeros = jnp.zeros(shape, config.dtype)
        return tuple(constrain(zeros, "slots", "kv_heads", None, None) for _ in range(config.num_layers))

    return Ring(keys=empty(), values=empty())


def prefill(params: Params, tokens: jax.Array, config: ModelConfig, rows: int) -> Prefix:
    """Prefix of prompts [P, Tp], padded on the right, computed ``rows`` prompts at a time."""
    P, T = tokens.shape
    n = -(-P // rows)
    padded = jnp.pad(tokens, ((0, n * rows - P), (0, 0))).reshape(n, rows, T)

    def one(chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, cache = hidden_states(params, chunk, config, with_cache=True)
        assert cache is not None
        return cache

    keys, values = jax.lax.map(one, padded)  # [n, L, rows, Tp, G, K]

    def per_layer(x: jax.Array) -> tuple[jax.Array, ...]:
        x = x.transpose(1, 0, 2, 4, 3, 5).reshape(config.num_layers, n * rows, *x.shape[4:5], T, x.shape[5])
        # Prompts stay whole on the data axis: any slot may come to need any of them.
        return tuple(constrain(layer[:P], None, "kv_heads", None, None) for layer in x)

    return Prefix(keys=per_layer(keys), values=per_layer(values))


def unstack_layers(params: Params, config: ModelConfig) -> tuple[Params, ...]:
    """The weights of each layer by themselves: decoding is unrolled, so that each cache is updated in place."""
    return tuple(jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(config.num_layers))


def decode_step(
    params: Params,
    layers: tuple[Params, ...],
    tokens: jax.Array,
    prefix: Prefix,
    prompt: jax.Array,
    prefix_length: jax.Array,
    ring: Ring,
    step: jax.Array,
    age: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Ring]:
    """One token for each slot.

    Args:
      params: the tree, for the embedding and the final norm.
      layers: unstack_layers(params).
      tokens: [S] the newest token of each slot.
      prefix: keys and values of the prompts.
      prompt: [S] which prompt each slot continues.
      prefix_length: [S] tokens of that prompt in the prefix.
      ring: keys and values of the slots' own tokens.
      step: [] counts calls; names the ring's entry that is written.
      age: [S] tokens of the slot's sequence already in the ring.
      config: the model.

    Returns:
      Final normed state [S, D] and the ring with this token in it.
    """
    cos, sin = rotary.tables(prefix_length + age, config)
    x = embed(params, tokens, config)
    keys, values = list(ring.keys), list(ring.values)
    length = keys[0].shape[2]
    entry = step % length
    for i, weights in enumerate(layers):
        h = rms_norm(x, weights["attention_norm"], config.norm_eps)
        q, k, v = attention.project(h, weights["attention"], cos, sin, config)
        keys[i] = jax.lax.dynamic_update_slice_in_dim(keys[i], k[:, :, None], entry, axis=2)
        values[i] = jax.lax.dynamic_update_slice_in_dim(values[i], v[:, :, None], entry, axis=2)
        q = q.reshape(q.shape[0], config.num_kv_heads, -1, config.head_dim)  # [S, G, H/G, K]
        part = _attend_prefix(q, prefix.keys[i], prefix.values[i], prompt, prefix_length)
        y = _normalise(_join(part, _attend_ring(q, keys[i], values[i], entry, age)))
        y = y.reshape(y.shape[0], config.num_heads, config.head_dim).astype(x.dtype)
        x = x + attention.merge_heads(y, weights["attention"], config)
        h = rms_norm(x, weights["mlp_norm"], config.norm_eps)
        x = constrain(x + mlp.mlp(h, weights["mlp"]), "slots", None)
    return rms_norm(x, params["final_norm"], config.norm_eps), Ring(keys=tuple(keys), values=tuple(values))


# A partial softmax: weighted values, sum of weights and the maximum they are relative to. Partial results over disjoint
# keys join exactly, so prefix and ring need not be one array.
_Partial = tuple[jax.Array, jax.Array, jax.Array]  # [S, G, R, K], [S, G, R], [S, G, R], float32


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> _Partial:
    scores = einsum_f32("sgrk,sgtk->sgrt", q, k) * q.shape[-1] ** -0.5
    scores = jnp.where(valid[:, None, None, :], scores, -jnp.inf)
    # A finite floor: with no valid key the maximum is -inf, and -inf - -inf is no number.
    top = jnp.maximum(scores.max(axis=-1), jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - top[..., None])
    return einsum_f32("sgrt,sgtk->sgrk", weights.astype(v.dtype), v), weights.sum(axis=-1), top


def _join(a: _Partial, b: _Partial) -> _Partial:
    top = jnp.maximum(a[2], b[2])
    scale_a, scale_b = jnp.exp(a[2] - top), jnp.exp(b[2] - top)
    return a[0] * scale_a[..., None] + b[0] * scale_b[..., None], a[1] * scale_a + b[1] * scale_b, top


def _normalise(part: _Partial) -> jax.Array:
    return part[0] / part[1][..., None]


def _attend_prefix(q: jax.Array, keys: jax.Array, values: jax.Array, prompt: jax.Array, length: jax.Array) -> _Partial:
    valid = jnp.arange(keys.shape[2]) < length[:, None]
    return _attend(q, keys[prompt], values[prompt], valid)


def _attend_ring(q: jax.Array, keys: jax.Array, values: jax.Array, entry: jax.Array, age: jax.Array) -> _Partial:
    length = keys.shape[2]

    def valid(entries: jax.Array) -> jax.Array:  # an entry's distance back from the newest is at most the slot's age
        return (entry - entries) % length <= age[:, None]

    if length <= RING_CHUNK:
        return _attend(q, keys, values, valid(jnp.arange(length)))

    # Walk back from the newest chunk to the oldest that any slot still needs.
    chunks = length // RING_CHUNK
    newest = entry // RING_CHUNK
    needed = jnp.minimum((age.max() + RING_CHUNK - 1 - entry % RING_CHUNK) // RING_CHUNK + 1, chunks)

    def one(i: jax.Array, part: _Partial) -> _Partial:
        start = ((newest - i) % chunks) * RING_CHUNK
        k = jax.lax.dynamic_slice_in_dim(keys, start, RING_CHUNK, axis=2)
        v = jax.lax.dynamic_slice_in_dim(values, start, RING_CHUNK, axis=2)
        return _join(part, _attend(q, k, v, valid(start + jnp.arange(RING_CHUNK))))

    shape = q.shape[:-1]
    nothing = (jnp.zeros(q.shape, jnp.float32), jnp.zeros(shape), jnp.full(shape, jnp.finfo(jnp.float32).min))
    return jax.lax.fori_loop(0, needed, one, nothing)
