"""Times one layer of experts on one device, in training and in decoding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.parts import part_figures
from r1jax.benchmark.workload import timed
from r1jax.models.config import ModelConfig
from r1jax.models.cost import Cost
from r1jax.models.experts import ROUTED
from r1jax.models.grouped_products import form
from r1jax.sharding import Params, init_params, param_count

_QUEUED = 10  # calls that are timed together, so that the device does not wait for the host


def experts_cost(config: ModelConfig, tokens: int, active: int, size: int) -> Cost:
    """Operations and bytes of the forward pass of one layer.

    Args:
      config: a model with experts.
      tokens: number of tokens.
      active: number of experts that some token uses; the matrices of the others are not read.
      size: bytes of a number.
    """
    own, D = config.experts, config.hidden_size
    assert own is not None
    operations = 2 * tokens * D * (own.number + 3 * (own.active * own.width + own.shared_width))
    unused = (own.number - active) * 3 * D * own.width
    return Cost(operations, size * (param_count(ROUTED.specs(config)) - unused + 2 * tokens * D))


def time_experts(
    config: ModelConfig, tokens: int, slots: int, flops: float, bandwidth: float, repeats: int
) -> tuple[str, dict[str, dict[str, float]]]:
    """How the grouped products are computed, and the figures of each part, as from part_figures, with loads.

    The parts are the forward pass, forward and backward pass, both with a skewed load, and a step of decoding. All
    include router, sort and shared experts.

    Args:
      config: a model with experts.
      tokens: tokens of the passes of training.
      slots: tokens of a step of decoding.
      flops: FLOP/s of a matrix product on the device.
      bandwidth: bytes/s of memory reads.
      repeats: calls per part; the figures have their median.
    """
    own, dtype = config.experts, jnp.dtype(config.dtype)
    assert own is not None
    weights = init_params(ROUTED.specs(config), jax.random.key(0), dtype)
    parts: dict[str, dict[str, float]] = {}

    def draw(number: int, common: float = 0.0) -> jax.Array:
        """Tokens [1, number, D], which share a random vector of this size."""
        keys = jax.random.split(jax.random.key(1), 2)
        shared = common * jax.random.normal(keys[1], (config.hidden_size,))
        return (jax.random.normal(keys[0], (1, number, config.hidden_size)) + shared).astype(dtype)

    @jax.jit
    def forward(h: jax.Array, weights: Params) -> tuple[jax.Array, Any]:
        y, routing = ROUTED.apply(h, weights, config, None)
        return y, routing.experts

    @jax.jit
    def both(h: jax.Array, weights: Params) -> Any:
        y, back, experts = jax.vjp(forward, h, weights, has_aux=True)
        return back(y), experts

    @jax.jit
    def decode(h: jax.Array, weights: Params) -> tuple[jax.Array, jax.Array]:
        """_QUEUED steps in one program, as in a decode loop; each depends on the one before."""
        laid_out = ROUTED.decoding_weights(weights, config)
        first = ROUTED.decode(h, laid_out, config)[1].experts

        def step(_: Any, h: jax.Array) -> jax.Array:
            return h + 0.001 * ROUTED.decode(h, laid_out, config)[0]

        return jax.lax.fori_loop(0, _QUEUED, step, h), first

    def add(name: str, run: Any, h: jax.Array, passes: int, calls: int) -> None:
        load = np.bincount(np.asarray(run(h, weights)[-1]).ravel(), minlength=own.number)
        seconds = timed(lambda: [run(h, weights) for _ in range(calls)], repeats) / _QUEUED
        number = h.size // config.hidden_size
        cost = experts_cost(config, number, int((load > 0).sum()), dtype.itemsize)
        figures = part_figures(seconds, number, Cost(passes * cost.flops, passes * cost.bytes), flops, bandwidth)
        parts[name] = figures | {
            "bandwidth_utilisation": passes * cost.bytes / seconds / bandwidth,
            "active_experts": int((load > 0).sum()),
            "largest_load": float(load.max() / load.mean()),
        }

    for name, common in (("", 0.0), (", skewed", 1.0)):
        h = draw(tokens, common)
        add(f"experts forward{name}", forward, h, 1, _QUEUED)
        add(f"experts forward and backward{name}", both, h, 3, _QUEUED)
    add("experts decoding", decode, draw(slots)[0], 1, 1)
    return form(draw(1)[0], weights["gate"], weights["down"]), parts
