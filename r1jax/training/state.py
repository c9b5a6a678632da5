"""What training carries from step to step, and the optimiser that moves it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, constrain_param, param_shapes, param_shardings
from r1jax.training.metrics import Metrics


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
    """Optimiser updates over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after the warm-up; cosine falls to a tenth at the last update."""
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

    def __post_init__(self) -> None:
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


def make_optimizer(config: OptimizerConfig, total_updates: int) -> optax.GradientTransformation:
    """The optimiser for a run of ``total_updates`` updates."""
    peak = config.learning_rate
    if config.schedule == "cosine":
        decay = max(total_updates - config.warmup_steps, 1)
        rate: optax.Schedule = optax.cosine_decay_schedule(peak, decay, alpha=0.1)
    else:
        rate = optax.constant_schedule(peak)
    if config.warmup_steps:
        rise = optax.linear_schedule(0.0, peak, config.warmup_steps)
        rate = optax.join_schedules([rise, rate], [config.warmup_steps])
    adamw = optax.adamw(rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=_decayed)
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    # A run that meets only non-finite gradients must keep skipping, not give in after some number of them.
    return optax.apply_if_finite(optax.chain(clip, adamw), max_consecutive_errors=2**31 - 1)


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
    params = optax.apply_updates(state.params, updates)
    # Left to itself the compiler may lay the results out otherwise than it was given them.
    specs = param_specs(model)
    params = jax.tree.map(constrain_param, params, specs)
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
