"""Balance of the load of routed experts: the bias of the routers, the loss per sequence, and metrics of the load."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import ModelConfig
from r1jax.models.experts import ROUTER_BIAS
from r1jax.models.layers import Run, mtp_run, runs
from r1jax.models.transformer import Extras, routing_of_layers
from r1jax.sharding import Params
from r1jax.traced import enabled
from r1jax.training.metrics import Metrics


@dataclasses.dataclass(frozen=True)
class Balance:
    """How an update balances the load of experts; static under jit."""

    bias_speed: float = 0.0
    loss_weight: float = 0.0


OFF = Balance()

MOST_COLUMNS = 16  # metrics of the load of experts


def _routed(config: ModelConfig) -> list[Run]:
    return [run for run in runs(config) if run.feed_forward.routed]


def expert_load(extras: Extras, mask: jax.Array) -> jax.Array | None:
    """How many tokens of the mask [B, T] use each expert of each layer: [L, E] float32; None without experts."""
    routing = routing_of_layers(extras)
    if routing is None:
        return None
    counts = jnp.broadcast_to(mask[..., None], routing.experts.shape[1:]).astype(jnp.float32)
    number = routing.scores.shape[-1]
    return jax.vmap(lambda used: jnp.zeros(number, jnp.float32).at[used].add(counts))(routing.experts)


def balance_loss(extras: Extras, mask: jax.Array, config: ModelConfig) -> jax.Array:
    """The sequence-wise balance loss of DeepSeek-V3 (arXiv 2412.19437, section 2.1.2), without its weight.

    sum_i f_i P_i of each row, summed over layers, where f_i = E / (k n) times the tokens that use expert i, and P_i is
    the mean over tokens of s_i / sum_j s_j. The n tokens of the mask count. It is 1 per layer in perfect balance.

    mask: [B, T] bool. Returns [B] float32; 0 for rows without tokens.
    """
    routing, own = routing_of_layers(extras), config.experts
    assert own is not None and routing is not None
    tokens = jnp.maximum(mask.sum(axis=1), 1).astype(jnp.float32)

    def row(experts: jax.Array, scores: jax.Array, mask: jax.Array, tokens: jax.Array) -> jax.Array:
        counts = jnp.broadcast_to(mask[:, None], experts.shape).astype(jnp.float32)
        used = jnp.zeros(own.number, jnp.float32).at[experts].add(counts) * (own.number / own.active)
        normalised = scores / (scores.sum(axis=-1, keepdims=True) + 1e-20)
        share = jnp.where(mask[:, None], normalised, 0.0).sum(axis=0)
        return (used * share).sum() / tokens**2

    layer = jax.vmap(row)
    return jax.vmap(lambda r: layer(r.experts, r.scores, mask, tokens))(routing).sum(axis=0)


def with_balance_loss(
    values: jax.Array, extras: Extras, mask: jax.Array, config: ModelConfig, balance: Balance
) -> tuple[jax.Array, Metrics]:
    """Losses [B] or [B, T] of rows or their tokens, each with the weighted balance loss of its row; and its metric.

    A row so has the weight in the balance loss that it has in the loss. mask: [B, T], the tokens that count.
    """
    if config.experts is None or not enabled(balance.loss_weight):
        return values, {}
    rows = balance.loss_weight * balance_loss(extras, mask, config)
    counts = mask.any(axis=1)
    metrics: Metrics = {"balance_loss": (jnp.where(counts, rows, 0.0).sum(), counts.sum().astype(jnp.float32))}
    return values + rows.reshape(-1, *[1] * (values.ndim - 1)), metrics


def move_bias(params: Params, load: jax.Array, config: ModelConfig, speed: float, counted: jax.Array) -> Params:
    """The weights with b_i + speed sign(mean load - load_i) as bias of each expert, if ``counted`` [] bool.

    The balance without an auxiliary loss of arXiv 2408.15664; load: [L, E], of all layers with experts. The layers of
    multi-token prediction are the last of them, or missing.
    """
    own = config.experts
    if own is None or not own.bias or not enabled(speed):
        return params
    moves = jnp.where(counted, speed * jnp.sign(load.mean(axis=1, keepdims=True) - load), 0.0)
    changed, first = dict(params), 0
    mtp = mtp_run(config)
    for run in [*_routed(config), *([] if mtp is None else [mtp])]:
        if first == len(load):  # without the layers of multi-token prediction
            break
        layers = changed[run.name]
        bias = layers["mlp"][ROUTER_BIAS] + moves[first : first + run.layers]
        changed[run.name] = {**layers, "mlp": {**layers["mlp"], ROUTER_BIAS: bias}}
        first += run.layers
    return changed


def load_metrics(load: jax.Array, counted: jax.Array) -> Metrics:
    """Metrics of load [L, E], with weight 0 unless ``counted`` [] bool.

    "expert_load_I" is the load of expert I over all layers, as a multiple of the mean load. Of more than MOST_COLUMNS
    experts, "expert_load_I_to_J" is the mean of the consecutive experts I to J, in MOST_COLUMNS blocks of almost equal
    size. "load_violation" is the largest load over the mean load of its layer, minus 1, in the layer where this is
    largest; "load_smallest" is the smallest load over the mean load of its layer, in the layer where this is smallest.
    """
    number, weight = load.shape[1], counted.astype(jnp.float32)
    shares = load / jnp.maximum(load.mean(axis=1, keepdims=True), 1e-20)
    metrics: Metrics = {
        "load_violation": (jnp.where(counted, shares.max() - 1, 0.0), weight),
        "load_smallest": (jnp.where(counted, shares.min(), 0.0), weight),
    }
    whole, average = load.sum(axis=0), load.sum() / number
    for block in np.array_split(np.arange(number), min(number, MOST_COLUMNS)):
        first, last = int(block[0]), int(block[-1])
        name = f"expert_load_{first}" if first == last else f"expert_load_{first}_to_{last}"
        metrics[name] = (whole[first : last + 1].mean(), average)
    return metrics
