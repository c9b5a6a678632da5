"""The sampler's program: layers of a run are traced and lowered once, and not once per layer."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from r1jax.models.transformer import param_specs
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import Queue, sample_queue
from r1jax.sharding import param_shapes
from tests.helpers.mtp import MTP


def lowered(config, sampling, widths):
    def ints(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    queue = Queue(ints(2, 4), ints(2), ints(8), ints(8), ints(8))
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = param_shapes(param_specs(config), jnp.float32)
    return sample_queue.lower(params, queue, key, config, sampling, (), widths).as_text()


@pytest.mark.parametrize(("draft", "name"), [("none", "_decode_layer"), ("mtp", "block_layer")])
def test_more_layers_are_more_calls_of_the_same_functions(draft, name, tiny_config):
    found = []
    for layers in (2, 4):
        config = dataclasses.replace(tiny_config if draft == "none" else MTP, num_layers=layers)
        text = lowered(config, Sampling(max_tokens=4, draft=draft), (8,))
        found.append([len(re.findall(rf"{word} @{name}", text)) for word in ("func\\.func private", "call")])
    (few, few_calls), (many, many_calls) = found
    assert 1 <= few == many <= 4
    assert many_calls == few_calls + 2
