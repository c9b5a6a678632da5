"""The draw of a token with the kernel of logits and sums of their blocks, interpreted on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.head_mosaic import TILE
from r1jax.models.config import ModelConfig
from r1jax.sampling import head
from r1jax.sampling.decode import Weights
from r1jax.sampling.head import kernel_token, next_token
from r1jax.sampling.processors import Sampling

D, V = 64, 256


def case():
    rng = np.random.default_rng(0)
    embedding = jnp.asarray(rng.normal(size=(V, D)) / 4, jnp.bfloat16)
    hidden = jnp.asarray(rng.normal(size=(TILE, D)), jnp.bfloat16)
    bits = jnp.asarray(rng.integers(0, 2**32, (TILE, 2)), jnp.uint32)
    return Weights({"embedding": embedding}, (), embedding.T), hidden, bits


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")
def test_the_kernel_draws_the_same_tokens(monkeypatch):
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    monkeypatch.setattr(head, "logits_kernel", partial(head.logits_kernel, interpret=InterpretGPUParams()))
    weights, hidden, bits = case()
    sampling = Sampling(temperature=0.8)
    got = kernel_token(weights, hidden, bits, "columns", sampling)
    want = next_token(weights, hidden, bits, ModelConfig(kernels="plain"), sampling)
    np.testing.assert_array_equal(got[0], want[0])
    assert len(set(got[0].tolist())) > 50
    for a, b in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_when_one_kernel_computes_logits_and_sums(monkeypatch):
    used = []
    monkeypatch.setattr(head, "head_of", lambda config: "columns")
    monkeypatch.setattr(head, "kernel_token", lambda *given: used.append(given[-1]) or (given[2],) * 3)
    weights, hidden, bits = case()
    config = ModelConfig(kernels="mosaic")

    def trace(rows, sampling):
        jax.eval_shape(lambda *given: next_token(*given, config, sampling), weights, hidden[:rows], bits[:rows])

    for sampling in (Sampling(), Sampling(temperature=0), Sampling(top_k=5), Sampling(top_p=0.9), Sampling(min_p=0.1)):
        trace(TILE, sampling)
    trace(64, Sampling())
    assert used == [Sampling()]


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")
@pytest.mark.parametrize("head", ["columns", "rows"])
def test_the_kernel_lowers_for_hopper(head):
    """Lowering checks layouts and shared memory; the sizes are those of Qwen2.5-0.5B."""
    matrix = jax.ShapeDtypeStruct((151_936, 896), jnp.bfloat16)
    output = jax.ShapeDtypeStruct((896, 151_936), jnp.bfloat16)
    hidden, bits = jax.ShapeDtypeStruct((512, 896), jnp.bfloat16), jax.ShapeDtypeStruct((512, 2), jnp.uint32)
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    run = jax.jit(lambda *given: kernel_token(*given, head, Sampling(temperature=0.7)))
    export = jax.export.export(run, platforms=["cuda"], disabled_checks=unchecked)
    program = export(Weights({"embedding": matrix}, (), output), hidden, bits)
    assert program.mlir_module().count("custom_call @mosaic_gpu_v2") == 1
