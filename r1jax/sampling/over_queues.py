"""A function of sampling on each device, where each position of the mesh's data axis has a queue of its own.

It runs inside shard_map, with kernels and without waiting for other queues. The devices of a model axis share a queue:
each has its share of the layers and of the cache, and the same state beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from r1jax.models.cache import Prefix
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sampling.memory import has_own_queues
from r1jax.sampling.slots import Queue, Samples, State
from r1jax.sharding import compiler_mesh, decoding_partition, map_specs

# How the mesh splits the first axes of arrays: rows over the data axis, and heads over the model axis. An array that
# all heads share has no axis of heads; models with such arrays are on a model axis of 1.
ROWS, CACHE = PartitionSpec("data"), PartitionSpec("data", "model")
_state: dict[str, Any] = {field.name: ROWS for field in dataclasses.fields(State)} | {"cache": CACHE}
_prefix: dict[str, Any] = {"layers": CACHE, "experts": ROWS}
STATE, PREFIX = State(**_state), Prefix(**_prefix)


def weights_partition(config: ModelConfig) -> Any:
    """PartitionSpecs of the weights on the current mesh, as decoding has them."""
    mesh = compiler_mesh()
    return map_specs(lambda spec: decoding_partition(spec, mesh), param_specs(config))


def over_queues(
    run: Callable[..., Any], queue: Queue, local: Any, *shared: Any, config: ModelConfig | None, split: Any, out: Any
) -> Any:
    """``run(queue, local, *shared)``, on each device if the positions of the data axis have queues of their own.

    Args:
      run: gets the queue of the device's position, whose prompts are numbered from 0, and the device's parts of other
        arrays.
      queue: of all devices.
      local: arrays that are split as ``split`` says.
      shared: the weights, split by decoding_partition, and arrays that are whole on each device.
      config: the model of has_own_queues.
      split: tree of ROWS and CACHE for ``local``, or of its first levels.
      out: the same for the result.

    Returns:
      The results of all devices in one array each. A State or Samples in ``local`` and in the result has the numbers of
      all queues.
    """
    if not has_own_queues(len(queue.prompts), len(queue.limits), config):
        return run(queue, local, *shared)

    def on_device(queue: Queue, local: Any, *shared: Any) -> Any:
        return _numbers(run(_own_queue(queue), _numbers(local, lambda x: x[0]), *shared), lambda x: x[None])

    whole = [PartitionSpec()] * len(shared[1:])
    weights = [weights_partition(config)] if shared and config is not None else []
    specs = (ROWS, split, *weights, *whole)
    return jax.shard_map(on_device, in_specs=specs, out_specs=out, check_vma=False)(queue, local, *shared)


def _own_queue(queue: Queue) -> Queue:
    """The queue of one device inside shard_map, whose prompts are numbered from 0."""
    first = jax.lax.axis_index("data") * len(queue.prompts)  # prompts are in the order of the sequences
    return dataclasses.replace(queue, prompt_of=queue.prompt_of - first)


def _numbers(tree: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """The tree with changed scalars of the states and samples in it."""

    def one(x: Any) -> Any:
        if isinstance(x, Samples):
            return dataclasses.replace(x, steps=change(x.steps))
        if isinstance(x, State):
            return dataclasses.replace(x, step=change(x.step), next=change(x.next), samples=one(x.samples))
        return x

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, State | Samples))
