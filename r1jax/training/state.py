"""What training carries from step to step, and the optimiser that moves it."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.seeds import named_key
from r1jax.sharding import Params, constrain_param, param_shapes, param_shardings
from r1jax.training.metrics import Metrics

Schedule = Literal["constant", "linear", "cosine"]
Rounding = Literal["nearest", "stochastic"]

TYPICAL_WEIGHT = 0.02  # the scale that matrices are drawn at


@flax.struct.dataclass
class TrainState:
    """Everything an update changes."""

    step: jax.Array  # [] int32, steps done
    params: Params
    opt_state: Any  # moments mirror the parameters, in shape, type and sharding


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101) behind gradient clipping; steps whose gradient is not finite are skipped."""

    learning_rate: float = 1e-6
    """Peak learning rate."""
    warmup_steps: int = 0
    """Optimiser updates over which the learning rate rises linearly, from a warmup-steps-th of the peak to the peak."""
    schedule: Schedule = "constant"
    """The learning rate after the warm-up: cosine falls to a tenth at the last update, linear to 0 just after it."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.99
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices alone."""
    max_grad_norm: float = 1.0
    """Global norm to which gradients are scaled down; 0 leaves them."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights and moments; float32 masters serve bfloat16 compute too."""
    rounding: Rounding = "nearest"
    """Of bfloat16 weights after an update; stochastic: up or down at random, such that the mean is not rounded."""

    def __post_init__(self) -> None:
        known = {"schedule": Schedule, "param_dtype": Literal["float32", "bfloat16"], "rounding": Rounding}
        for name, values in known.items():
            if (value := getattr(self, name)) not in get_args(values):
                choices = ", ".join(get_args(values))
                raise UserError(f"{name.replace('_', '-')}={value} is not one of {choices}")
        if self.rounding == "stochastic" and self.param_dtype != "bfloat16":
            raise UserError(f"rounding=stochastic is for param-dtype=bfloat16, and not for {self.param_dtype}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{field.name.replace('_', '-')}={value} is not a finite number")
        if not self.learning_rate >= 0:
            raise UserError(f"learning-rate {self.learning_rate} must be at least 0")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"b1 {self.b1} and b2 {self.b2} must lie from 0 to below 1")
        if self.max_grad_norm < 0 or self.weight_decay < 0 or self.warmup_steps < 0 or self.eps <= 0:
            raise UserError("max-grad-norm, weight-decay and warmup-steps must be at least 0 and eps above 0")


def learning_rate(config: OptimizerConfig, total_updates: int) -> optax.Schedule:
    """The learning rate by the number of updates before, for a run of ``total_updates``; that of no update is 0."""
    peak, warmup = config.learning_rate, config.warmup_steps
    left = total_updates - warmup
    if config.schedule == "cosine":
        rate: optax.Schedule = optax.cosine_decay_schedule(peak, max(left - 1, 1), alpha=0.1)
    elif config.schedule == "linear":
        rate = optax.linear_schedule(peak, 0.0, max(left, 1))
    else:
        rate = optax.constant_schedule(peak)
    if not warmup:
        return rate
    return optax.join_schedules([lambda count: peak * (count + 1) / warmup, rate], [warmup])


@functools.cache  # jit compiles once for each optimiser: equal settings must give the same one
def make_optimizer(config: OptimizerConfig, total_updates: int, seed: int = 0) -> optax.GradientTransformation:
    """The optimiser for a run of ``total_updates`` updates; ``seed`` is of the stochastic rounding."""
    rate = learning_rate(config, total_updates)
    adamw = optax.adamw(rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=_decayed)
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    rounding = [_stochastic_rounding(seed)] if config.rounding == "stochastic" else []
    # A run that meets only non-finite gradients must keep skipping, not give in after some number of them.
    return optax.apply_if_finite(optax.chain(clip, adamw, *rounding), max_consecutive_errors=2**31 - 1)


class RoundingState(NamedTuple):
    """What the random bits of stochastic rounding depend on, beside the path of a weight."""

    rounding_seed: jax.Array  # [] int32
    rounding_count: jax.Array  # [] int32, updates done


def _stochastic_rounding(seed: int) -> optax.GradientTransformation:
    """Counts updates for apply_gradients, which rounds; it is in the state, so that a resumed run draws the same."""

    def init(params: Params) -> RoundingState:
        return RoundingState(jnp.array(seed % 2**31, jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, RoundingState]:
        return updates, state._replace(rounding_count=state.rounding_count + 1)

    return optax.GradientTransformation(init, update)


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """x float32 as one of the two bfloat16 beside it, of which x is the mean; same shape.

    The nearer is the likelier, in steps of 2^-16 of their distance; what bfloat16 holds exactly stays, and so do
    infinities and nan.
    """
    chex.assert_type(x, jnp.float32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _apply_updates(params: Params, updates: Params, opt_state: Any) -> Params:
    """The weights moved by ``updates``, in their type: to the nearest, or at random where the optimiser says so."""
    seed = optax.tree_utils.tree_get(opt_state, "rounding_seed")
    if seed is None:
        return optax.apply_updates(params, updates)
    count = optax.tree_utils.tree_get(opt_state, "rounding_count")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 9), count)

    def move(path: Any, weight: jax.Array, update: jax.Array) -> jax.Array:
        own = named_key(key, jax.tree_util.keystr(path))
        return round_stochastically(weight.astype(jnp.float32) + update.astype(jnp.float32), own)

    return jax.tree_util.tree_map_with_path(move, params, updates)


def warn_of_rounding(config: OptimizerConfig, what: str) -> None:
    """Warns in one line each where bfloat16 loses updates of weights, or of moments; ``what`` is such as "rl".

    Adam moves a weight by about the learning rate. Half the spacing of bfloat16 is 2^-8 of a weight or less: smaller
    moves are lost in rounding to the nearest. So are those of a moment, by 1 - b of its distance from the gradient's:
    below 2^-7 it stays where it is within a factor of 2.
    """
    lost = 0 < config.learning_rate < TYPICAL_WEIGHT * 2**-8
    if lost and config.param_dtype == "bfloat16" and config.rounding == "nearest":
        warnings.warn(
            f"{what}: at learning-rate={config.learning_rate:g} most updates of bfloat16 weights are lost in rounding: "
            f"choose {what}.rounding=stochastic or {what}.param-dtype=float32",
            stacklevel=3,
        )
    for name in ("b1", "b2"):
        if config.param_dtype == "bfloat16" and 1 - getattr(config, name) < 2**-7:
            warnings.warn(
                f"{what}: at {name}={getattr(config, name):g} most updates of bfloat16 moments are lost in rounding: "
                f"choose {what}.{name}=0.99 or less, or {what}.param-dtype=float32",
                stacklevel=3,
            )


def _decayed(params: Params) -> Any:
    # Norms and biases are left alone. Names, and not ranks, tell them: layers are stacked.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(word in jax.tree_util.keystr(path[-1:]) for word in ("norm", "bias")), params
    )


def state_shapes(
    model: ModelConfig, config: OptimizerConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """TrainState of ShapeDtypeStruct with shardings: the target of a restore and of init_state."""
    specs = param_specs(model)
    params = param_shapes(specs, jnp.dtype(config.param_dtype), mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, params),
        param_shardings(specs, mesh),
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
    )
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    return TrainState(step=step, params=params, opt_state=opt_state)


def init_state(params: Params, optimizer: optax.GradientTransformation, shapes: TrainState) -> TrainState:
    """A fresh state around ``params``, in the types and on the shardings of ``shapes``; the argument is not kept."""

    def init(params: Params) -> TrainState:
        # A true copy: jit may hand an input through as an output, and updates donate what they are given.
        params = jax.tree.map(lambda w, s: jnp.copy(w).astype(s.dtype), params, shapes.params)
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return jax.jit(init, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))(params)


def apply_gradients(
    state: TrainState, grads: Params, count: jax.Array, optimizer: optax.GradientTransformation, model: ModelConfig
) -> tuple[TrainState, Metrics]:
    """The state after one update with the gradient ``grads / count`` (sums), and metrics of the update.

    A count of 0, where nothing in the batch counts, leaves everything as it was: without a gradient, momentum, weight
    decay and the schedule would still act. A gradient that is not finite changes nothing but skipped_updates. The
    metrics: "gradient_norm" (of updates that count) and "empty_updates", the share of updates whose count is 0.
    """
    counted = count > 0
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) / jnp.maximum(count, 1.0), grads)
    norm = optax.tree.norm(grads)
    grads = jax.tree.map(lambda g, w: g.astype(w.dtype), grads, state.params)
    # A condition, since a choice between moments before and after would hold both in memory.
    updates, opt_state = jax.lax.cond(
        counted,
        optimizer.update,
        lambda grads, opt_state, _: (optax.tree.zeros_like(grads), opt_state),
        *(grads, state.opt_state, state.params),
    )
    # Left to itself the compiler may lay the results out otherwise than it was given them.
    specs = param_specs(model)
    params = jax.tree.map(constrain_param, _apply_updates(state.params, updates, opt_state), specs)
    opt_state = optax.tree_utils.tree_map_params(optimizer, constrain_param, opt_state, specs)
    weight = counted.astype(jnp.float32)
    metrics: Metrics = {
        "gradient_norm": (jnp.where(counted, norm, 0.0), weight),
        "empty_updates": (1 - weight, jnp.ones(())),
    }
    return dataclasses.replace(state, params=params, opt_state=opt_state), metrics


def skipped_updates(state: TrainState) -> jax.Array:
    """Updates left out so far because their gradient was not finite: [] int32."""
    return state.opt_state.total_notfinite
