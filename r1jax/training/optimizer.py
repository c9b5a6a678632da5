"""AdamW with clipping, schedules and stochastic rounding: the settings and the transformation."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import optax

from r1jax.errors import UserError
from r1jax.seeds import named_key
from r1jax.sharding import Params
from r1jax.traced import enabled, where_enabled
from r1jax.training.balance import Balance

Schedule = Literal["constant", "linear", "cosine"]
Rounding = Literal["nearest", "stochastic"]

TYPICAL_WEIGHT = 0.02  # standard deviation of matrices at initialisation


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101) with gradient clipping; updates whose gradient is not finite are skipped."""

    learning_rate: float = 1e-6
    """Peak learning rate."""
    warmup_steps: int = 0
    """Optimiser updates over which the learning rate rises linearly from peak / warmup-steps to the peak."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: cosine falls to a tenth at the last update, linear to 0 just after it."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.99
    """Decay of the second moment."""
    eps: float = 1e-8
    """Number that is added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the matrices; norms and biases have none."""
    max_grad_norm: float = 1.0
    """Global norm that gradients are clipped to; 0 turns clipping off."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights and moments; float32 also works when the model computes in bfloat16."""
    rounding: Rounding = "nearest"
    """Rounding of bfloat16 weights after an update; stochastic rounds up or down at random, without bias."""
    router_bias_speed: float = 0.0
    """Change of the bias of each expert after an update, towards equal load (arXiv 2408.15664), if the model has such
    biases. DeepSeek-V3 is pretrained with 0.001, and with 0 at the end."""
    balance_loss: float = 0.0
    """Weight of the sequence-wise loss that balances the load of experts, if the model has experts. DeepSeek-V3 is
    pretrained with 0.0001 (arXiv 2412.19437)."""

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
        if self.router_bias_speed < 0 or self.balance_loss < 0:
            raise UserError("router-bias-speed and balance-loss must be at least 0")
        if self.max_grad_norm < 0 or self.weight_decay < 0 or self.warmup_steps < 0 or self.eps <= 0:
            raise UserError("max-grad-norm, weight-decay and warmup-steps must be at least 0 and eps above 0")

    @property
    def balance(self) -> Balance:
        """How updates balance the load of experts."""
        return Balance(self.router_bias_speed, self.balance_loss)


def learning_rate(config: OptimizerConfig, total_updates: int) -> optax.Schedule:
    """The learning rate as a function of the updates done, for a training of ``total_updates``; never 0."""
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


def make_optimizer(config: OptimizerConfig, total_updates: int, seed: int = 0) -> optax.GradientTransformation:
    """The optimiser for a training of ``total_updates`` updates; ``seed`` seeds the stochastic rounding.

    Arguments that have the same effect give the same object, since jit compiles once for each optimiser.
    """
    own = OptimizerConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(OptimizerConfig)})
    scheduled, random = own.schedule != "constant", own.rounding == "stochastic"
    return _same_optimizer(own, total_updates if scheduled else 1, seed if random else 0)


def build_optimizer(config: OptimizerConfig, total_updates: int, seed: int = 0) -> optax.GradientTransformation:
    """make_optimizer for settings that may be arrays, in a traced function."""
    rate = learning_rate(config, total_updates)
    adamw = optax.adamw(rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=_decayed)
    norm = config.max_grad_norm
    largest: Any = where_enabled(norm, norm, jnp.inf)
    clip = optax.clip_by_global_norm(largest) if enabled(norm) else optax.identity()
    rounding = [_stochastic_rounding(seed)] if config.rounding == "stochastic" else []
    # By default optax applies non-finite gradients after some number of them in a row.
    return optax.apply_if_finite(optax.chain(clip, adamw, *rounding), max_consecutive_errors=2**31 - 1)


_same_optimizer = functools.cache(build_optimizer)


def _decayed(params: Params) -> Any:
    # By name and not by rank: the norms of stacked layers have two dimensions.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(word in jax.tree_util.keystr(path[-1:]) for word in ("norm", "bias")), params
    )


class RoundingState(NamedTuple):
    """Seed and counter of the random bits of stochastic rounding; the path of a weight is folded in, too."""

    rounding_seed: jax.Array  # [] int32
    rounding_count: jax.Array  # [] int32, updates done


def _stochastic_rounding(seed: int) -> optax.GradientTransformation:
    """Counts the updates; apply_updates rounds. The count is in the state, so that a resumed training rounds alike."""

    def init(params: Params) -> RoundingState:
        return RoundingState(jnp.array(seed % 2**31, jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, RoundingState]:
        return updates, state._replace(rounding_count=state.rounding_count + 1)

    return optax.GradientTransformation(init, update)


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """x float32 rounded at random to one of its two neighbours in bfloat16, with mean x: same shape.

    The probability of each is a multiple of 2^-16. Values that bfloat16 holds exactly, infinities and nan stay.
    """
    chex.assert_type(x, jnp.float32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def apply_updates(params: Params, updates: Params, opt_state: Any) -> Params:
    """The weights plus ``updates``, in the type of the weights, rounded as the optimiser's settings say."""
    seed = optax.tree_utils.tree_get(opt_state, "rounding_seed")
    if seed is None:
        return optax.apply_updates(params, updates)
    count = optax.tree_utils.tree_get(opt_state, "rounding_count")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 9), count)

    def move(path: Any, weight: jax.Array, update: jax.Array) -> jax.Array:
        if weight.dtype != jnp.bfloat16:
            return weight + update
        own = named_key(key, jax.tree_util.keystr(path))
        return round_stochastically(weight.astype(jnp.float32) + update.astype(jnp.float32), own)

    return jax.tree_util.tree_map_with_path(move, params, updates)


def warn_of_rounding(config: OptimizerConfig, what: str) -> None:
    """Warns, in a line each, if bfloat16 rounds away the updates of weights or moments; ``what`` is the flag's prefix.

    Adam moves a weight by about the learning rate. Half the spacing of bfloat16 is at most 2^-8 of a weight: rounding
    to the nearest loses smaller moves. A moment moves by 1 - b of its distance from the gradient's: below 2^-7 it does
    not move while the two are within a factor of 2.
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
