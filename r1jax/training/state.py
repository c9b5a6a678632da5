"""The training state: weights and optimiser moments, and the update that moves them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, constrain_param, param_shapes, param_shardings
from r1jax.training.balance import load_metrics, move_bias
from r1jax.training.metrics import Metrics
from r1jax.training.optimizer import OptimizerConfig, apply_updates


@flax.struct.dataclass
class TrainState:
    """Weights and optimiser moments."""

    step: jax.Array  # [] int32, steps done
    params: Params
    opt_state: Any  # moments have the shapes, types and shardings of the parameters

    def saved(self) -> tuple[Params, dict[str, Any]]:
        """The two parts of a checkpoint: the weights, and all else."""
        return self.params, {"step": self.step, "opt_state": self.opt_state}

    def restored(self, params: Params, rest: dict[str, Any]) -> TrainState:
        """The state that the two parts of a checkpoint hold."""
        return TrainState(params=params, **rest)

    def next_step(self) -> TrainState:
        """The same state with one step more done."""
        return dataclasses.replace(self, step=self.step + 1)

    def skipped_updates(self) -> jax.Array:
        """Updates skipped so far because their gradient was not finite: [] int32."""
        return self.opt_state.total_notfinite


def state_shapes(
    model: ModelConfig, config: OptimizerConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The TrainState as ShapeDtypeStructs with shardings: the target of a restore and of init_state."""
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
    """The state before the first update, with a copy of ``params`` in the types and on the shardings of ``shapes``."""
    leaves, tree = jax.tree.flatten(shapes)
    return _initial(optimizer, tree, tuple(leaves))(params)


@functools.lru_cache(maxsize=32)  # traced and compiled once for equal arguments
def _initial(optimizer: optax.GradientTransformation, tree: Any, leaves: tuple[Any, ...]) -> Callable[..., TrainState]:
    """The program of init_state; tree, leaves: of its shapes."""
    shapes = jax.tree.unflatten(tree, leaves)

    def init(params: Params) -> TrainState:
        # A copy, since jit may return an input as an output, and updates donate their argument.
        params = jax.tree.map(lambda w, s: jnp.copy(w).astype(s.dtype), params, shapes.params)
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return jax.jit(init, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))


def apply_gradients(
    state: TrainState,
    grads: Params,
    count: jax.Array,
    optimizer: optax.GradientTransformation,
    model: ModelConfig,
    load: jax.Array | None = None,
    bias_speed: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """The state after one update with the gradient ``grads / count`` (sums), and metrics of the update.

    A count of 0 means that nothing in the batch counts, and changes nothing: momentum, weight decay and the schedule
    would act without a gradient, too. A gradient that is not finite changes skipped_updates alone. The metrics are
    "gradient_norm" (of updates that count) and "empty_updates", the share of updates whose count is 0.

    load: [L, E] of the batch from balance.expert_load; None without experts. It adds load_metrics, and moves the bias
    of the routers by ``bias_speed``.
    """
    counted = count > 0
    grads = jax.tree.map(lambda g: g.astype(jnp.float32) / jnp.maximum(count, 1.0), grads)
    norm = optax.tree.norm(grads)
    grads = jax.tree.map(lambda g, w: g.astype(w.dtype), grads, state.params)
    # A condition and not a selection, which would hold the moments before and after in memory.
    updates, opt_state = jax.lax.cond(
        counted,
        optimizer.update,
        lambda grads, opt_state, _: (optax.tree.zeros_like(grads), opt_state),
        *(grads, state.opt_state, state.params),
    )
    # Without constraints the compiler may choose other shardings for the results than for the arguments.
    specs = param_specs(model)
    params = apply_updates(state.params, updates, opt_state)
    if load is not None:
        params = move_bias(params, load, model, bias_speed, counted & opt_state.last_finite)
    params = jax.tree.map(constrain_param, params, specs)
    opt_state = optax.tree_utils.tree_map_params(optimizer, constrain_param, opt_state, specs)
    weight = counted.astype(jnp.float32)
    metrics: Metrics = {
        "gradient_norm": (jnp.where(counted, norm, 0.0), weight),
        "empty_updates": (1 - weight, jnp.ones(())),
    }
    if load is not None:
        metrics |= load_metrics(load, counted)
    return dataclasses.replace(state, params=params, opt_state=opt_state), metrics
