"""Initial training states."""

from r1jax.sharding import make_mesh
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from r1jax.training.state import init_state, state_shapes


def fresh(params, model, config=None, mesh=None):
    """A state before its first update, its optimiser, and its shapes with shardings."""
    config = config or OptimizerConfig(learning_rate=1e-2, eps=1e-3)
    mesh = mesh or make_mesh("1x1")
    optimizer = make_optimizer(config, 10)
    shapes = state_shapes(model, config, optimizer, mesh)
    return init_state(params, optimizer, shapes), optimizer, shapes
