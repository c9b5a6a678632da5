"""Routed experts: the choice of each token's experts, their products, and shared experts."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models.config import Experts, ModelConfig
from r1jax.models.exchange import AXIS, collect, is_ragged, routes, spread, spread_routing
from r1jax.models.grouped_products import from_groups, grouped_product, order_by_group, to_groups
from r1jax.models.kinds import FeedForward
from r1jax.models.mlp import gated
from r1jax.models.precision import einsum_f32
from r1jax.sharding import Params, ParamSpec, compiler_mesh, decoding_partition, parse_mesh, partition

ROOM = 2**31  # bytes of the tokens that a device may have to sort by expert at one time
ROUTER_BIAS = "router_bias"  # float32 always: it moves in steps of 0.001, which bfloat16 rounds away from 0.5 on


@flax.struct.dataclass
class Routing:
    """The experts of each token."""

    experts: jax.Array  # [..., k] int32, those that are used
    chosen: jax.Array  # [..., k] int32, those that the scores choose, from the highest to the lowest
    scores: jax.Array  # [..., E] float32, of all experts, without the bias


def index_type(config: ModelConfig) -> Any:
    """The smallest type of unsigned integers that holds the number of an expert."""
    return jnp.uint8 if _experts(config).number <= 256 else jnp.uint16


def _experts(config: ModelConfig) -> Experts:
    assert config.experts is not None
    return config.experts


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Parameter specs of one layer: router [D, E], gate and up [E, D, F], down [E, F, D], and shared experts."""
    own, D = _experts(config), config.hidden_size
    E, F, shared = own.number, own.width, own.shared_width
    scale = 0.02 / (2 * config.num_layers) ** 0.5
    tree = {
        "router": ParamSpec((D, E), ("embed", None)),
        "gate": ParamSpec((E, D, F), ("experts", "embed", "mlp")),
        "up": ParamSpec((E, D, F), ("experts", "embed", "mlp")),
        "down": ParamSpec((E, F, D), ("experts", "mlp", "embed"), scale=scale),
    }
    if own.bias:
        tree[ROUTER_BIAS] = ParamSpec((E,), (None,), init="zeros", dtype="float32")
    if shared:
        tree["shared_gate"] = ParamSpec((D, shared), ("embed", "mlp"))
        tree["shared_up"] = ParamSpec((D, shared), ("embed", "mlp"))
        tree["shared_down"] = ParamSpec((shared, D), ("mlp", "embed"), scale=scale)
    return tree


def route(
    h: jax.Array, weights: Params, config: ModelConfig, replay: jax.Array | None = None
) -> tuple[Routing, jax.Array]:
    """The routing of h [..., D] and the weights [..., k] float32 of the chosen experts.

    The router's sums, its scores and the choice are in float32, whatever the type of h: its logits are not rounded.
    DeepSeek-V2 and V3 do the same; Mixtral, Qwen3-MoE and OLMoE round the logits to the type of h. Equal scores rank by
    the lower index. Groups that are not chosen are excluded, as in DeepSeek's inference code; transformers sets their
    scores to 0, which differs if a bias makes all other scores negative.

    Args:
      h: [..., D].
      weights: of one layer.
      config: the model.
      replay: [..., k] integers; the experts to use in place of those that the scores choose.
    """
    own = _experts(config)
    logits = einsum_f32("...d,de->...e", h, weights["router"])
    scores = jax.nn.sigmoid(logits) if own.scores == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    ranked = jax.lax.stop_gradient(scores)
    if own.bias:
        ranked = ranked + jax.lax.stop_gradient(weights[ROUTER_BIAS]).astype(jnp.float32)
    if own.groups > 1:
        grouped = ranked.reshape(*ranked.shape[:-1], own.groups, -1)
        best = jax.lax.top_k(grouped, 2 if own.group_score == "two highest" else 1)[0].sum(axis=-1)
        kept = jax.lax.top_k(best, own.active_groups)[1]
        allowed = jax.nn.one_hot(kept, own.groups, dtype=bool).any(axis=-2)
        ranked = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(ranked.shape)
    chosen = jax.lax.top_k(ranked, own.active)[1]
    used = chosen if replay is None else replay.astype(jnp.int32)
    share = jnp.take_along_axis(scores, used, axis=-1)
    if own.normalise:
        share = share / (share.sum(axis=-1, keepdims=True) + 1e-20)  # sigmoids of very low logits are 0 in float32
    return Routing(used, chosen, scores), share * own.scale


def check_mesh(mesh: str, *models: ModelConfig) -> None:
    """Raises UserError if a mesh such as "2x1x4" has an expert axis that does not suit one of the models.

    A model without experts may be beside one with experts: for it, the axis is a second data axis.
    """
    size = parse_mesh(mesh)
    own = [model.experts for model in models if model.experts is not None]
    if size.expert > 1 and not own:
        raise UserError(
            f"--mesh={mesh}: the model has no experts for an expert axis of {size.expert}: give these devices to the "
            f"data axis, --mesh={size.rows}x{size.model}"
        )
    for experts in own:
        check_split(experts.number, size.expert)


def check_split(number: int, devices: int) -> None:
    """Raises UserError if ``number`` experts do not split over the ``devices`` of the expert axis."""
    if number % devices:
        raise UserError(
            f"{number} experts do not split over the {devices} devices of the mesh's expert axis: choose a --mesh "
            f"whose expert axis divides {number}"
        )


def _apply(
    h: jax.Array, weights: Params, config: ModelConfig, replay: jax.Array | None = None
) -> tuple[jax.Array, Routing]:
    routing, share = route(h, weights, config, replay)
    y = _routed(h, routing.experts, share, weights, config).astype(h.dtype)
    if _experts(config).shared_width:
        gate = jnp.einsum("...d,df->...f", h, weights["shared_gate"])
        up = jnp.einsum("...d,df->...f", h, weights["shared_up"])
        y = y + jnp.einsum("...f,fd->...d", gated(gate, up), weights["shared_down"])
    return y, routing


def _routed(h: jax.Array, experts: jax.Array, share: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    """The sum of the experts [..., k] of h [..., D], times their ``share`` [..., k]: [..., D] float32.

    The experts are split over the expert axis, and the hidden units of each over the model axis. Each device sorts the
    tokens of its experts by expert. Its tokens move if they are split over the expert axis; otherwise all its devices
    have them, and the sums of the devices are added.
    """
    names, mesh, number = ("gate", "up", "down"), compiler_mesh(), _experts(config).number
    matrices = [weights[name] for name in names]
    if mesh is None:
        return _sum_of_experts(h, experts, share, *matrices, number=number)
    check_split(number, mesh.shape[AXIS])
    kinds = specs(config)
    split = [decoding_partition(kinds[name], mesh) for name in names]
    tokens = partition(h.shape, ("batch", *[None] * (h.ndim - 1)), mesh)
    moves = AXIS in (tokens[0] or ())
    added = tuple(name for name in (AXIS, "model") if name in split[0] and not (name == AXIS and moves))

    def on_device(h: jax.Array, experts: jax.Array, share: jax.Array, *matrices: jax.Array) -> jax.Array:
        y = (_exchanged if moves else _sum_of_experts)(h, experts, share, *matrices, number=number)
        return jax.lax.psum(y, added) if added else y

    shards = jax.shard_map(
        on_device, mesh=mesh, in_specs=(tokens, tokens, tokens, *split), out_specs=tokens, check_vma=False
    )
    return shards(h, experts, share, *matrices)


def _exchanged(h: jax.Array, experts: jax.Array, share: jax.Array, *matrices: jax.Array, number: int) -> jax.Array:
    """_sum_of_experts for tokens that are split over the expert axis.

    A device has room for the case that all tokens of all devices choose its experts. If this is more than ROOM, the
    tokens move in parts, each of which is computed again in the backward pass.
    """
    k, D, own = experts.shape[-1], h.shape[-1], matrices[0].shape[0]
    devices, dtype = number // own, h.dtype

    def one(part: tuple[jax.Array, jax.Array, jax.Array], matrices: tuple[jax.Array, ...]) -> jax.Array:
        h, experts, share = part
        way = None
        if is_ragged(devices, k):
            way = routes((experts[..., None] // own == jnp.arange(devices)).any(axis=1), k)
        rows = spread(h, way), *spread_routing(experts, share, way, number)
        return collect(_sum_of_experts(*rows, *matrices, number=number).astype(dtype), way)

    tokens = h.reshape(-1, D), experts.reshape(-1, k), share.reshape(-1, k)
    n = len(tokens[0])
    room = devices * k * D * dtype.itemsize  # of a token
    parts = next(c for c in range(1, n + 1) if n % c == 0 and (n // c * room <= ROOM or c == n))
    if parts == 1:
        return one(tokens, matrices).reshape(h.shape).astype(jnp.float32)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, x.shape[-1]), tokens)
    kept = [x.astype(jnp.float32) for x in matrices]  # so that their gradients are added up in float32

    @jax.checkpoint
    def again(part: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return one(part, tuple(x.astype(dtype) for x in kept))

    return jax.lax.map(again, split).reshape(h.shape).astype(jnp.float32)


def _sum_of_experts(
    h: jax.Array, experts: jax.Array, share: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array, number: int
) -> jax.Array:
    """The sum of the experts that this device has, a part of ``number`` if the expert axis splits them."""
    k, own = experts.shape[-1], gate.shape[0]
    groups, share, most = experts.reshape(-1, k), share.reshape(-1, k), None
    if own < number:
        groups = groups - jax.lax.axis_index(AXIS) * own
        groups = jnp.where((groups >= 0) & (groups < own), groups, own)
    if own < k:
        groups, share = _without_repeats(groups, share, own)
        most = len(groups) * own
    order = order_by_group(groups, own, most)
    x = to_groups(h.reshape(-1, h.shape[-1]), order)
    hidden = gated(grouped_product(x, gate, order.sizes), grouped_product(x, up, order.sizes))
    y = from_groups(grouped_product(hidden, down, order.sizes), order, k)
    return _weighted_sum(y, share).reshape(h.shape)


@jax.checkpoint  # the backward pass stores y in its own type, not in float32
def _weighted_sum(y: jax.Array, share: jax.Array) -> jax.Array:
    """The sum over k of y [N, k, D] times share [N, k] float32: [N, D] float32."""
    return einsum_f32("nkd,nk->nd", y, share)


def _without_repeats(groups: jax.Array, share: jax.Array, nobody: int) -> tuple[jax.Array, jax.Array]:
    """Groups and shares [N, k] where a group that a row has several times has all of its shares at the first place.

    The router chooses each expert once. Replayed routing repeats expert 0 after the end of a text.
    """
    same = groups[:, :, None] == groups[:, None, :]
    repeated = jnp.tril(same, -1).any(axis=-1)
    return jnp.where(repeated, nobody, groups), einsum_f32("nij,nj->ni", same.astype(share.dtype), share)


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    return weights


ROUTED = FeedForward(specs, _apply, _decoding_weights, _apply, routed=True)
