"""Weights and initial training states."""

import jax
import numpy as np

from r1jax.models.transformer import param_specs
from r1jax.sharding import make_mesh, map_specs
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from r1jax.training.state import init_state, state_shapes


def random_params(config, seed=0):
    """Weights distributed as those of init_params, without a compiled program for each shape."""
    rng = np.random.default_rng(seed)

    def draw(spec):
        own = (
            rng.normal(0, spec.scale, spec.shape) if spec.init == "normal" else np.full(spec.shape, spec.init == "ones")
        )
        return jax.device_put(own.astype(np.float32))

    return map_specs(draw, param_specs(config))


def fresh(params, model, config=None, mesh=None):
    """A state before its first update, its optimiser, and its shapes with shardings."""
    config = config or OptimizerConfig(learning_rate=1e-2, eps=1e-3)
    mesh = mesh or make_mesh("1x1")
    optimizer = make_optimizer(config, 10)
    shapes = state_shapes(model, config, optimizer, mesh)
    return init_state(params, optimizer, shapes), optimizer, shapes
