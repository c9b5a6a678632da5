"""Kernels of the output head: interpreted on a CPU against float64, lowered for a GPU, and when they apply."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.kernels import head, platform
from r1jax.kernels.head import applies, head_of
from r1jax.kernels.head_mosaic import BLOCK, TILE, block_moments_kernel, place_of
from r1jax.models.config import ModelConfig

interpreted = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")


def interpreter():
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    return InterpretGPUParams()


@interpreted
@pytest.mark.parametrize(("chunk", "entropies"), [(512, 1.0), (1024, 0.0)])
def test_values_and_gradients_match_float64(chunk, entropies, monkeypatch):
    """Two chunks of tokens of several sequences, the second one partly empty, and an odd number of blocks.

    Without a gradient of the entropies also one chunk, whose weights are kept.
    """
    for name in ("block_moments_kernel", "logits_gradient_kernel"):
        monkeypatch.setattr(head, name, partial(getattr(head, name), interpret=interpreter()))
    B, T, D, V, temperature = 2, 400, 128, 384, 0.7
    rng = np.random.default_rng(0)
    hidden, matrix = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((B, T, D), (D, V)))
    matrix *= 0.2
    targets = rng.integers(0, V, (B, T))
    targets[0, 0] = V - 1
    weights = rng.normal(size=(2, B, T)).astype(np.float32)
    weights[1] *= entropies

    @jax.jit
    def run(h, w):
        def values(h, w):
            logp, entropy = token_logprobs(h, w, jnp.asarray(targets), temperature, chunk, "columns")
            return (logp * weights[0]).sum() + (entropies and (entropy * weights[1]).sum()), (logp, entropy)

        gradients, found = jax.grad(values, argnums=(0, 1), has_aux=True)(h, w)
        return found, gradients

    (logp, entropy), (d_h, d_w) = run(hidden, matrix)
    h, w = np.asarray(hidden, np.float64), np.asarray(matrix, np.float64)
    z = h @ w / temperature
    logq = z - np.log(np.exp(z).sum(-1, keepdims=True))
    q = np.exp(logq)
    H = -(q * logq).sum(-1)
    np.testing.assert_allclose(logp, np.take_along_axis(logq, targets[..., None], -1)[..., 0], atol=1e-4)
    np.testing.assert_allclose(entropy, H, atol=1e-4)
    one = np.zeros(z.shape)
    np.put_along_axis(one, targets[..., None], 1, axis=-1)
    dz = (weights[0][..., None] * (one - q) - weights[1][..., None] * q * (logq + H[..., None])) / temperature
    for got, want in ((d_h, dz @ w.T), (d_w, np.einsum("btd,btv->dv", h, dz))):
        error = np.asarray(got, np.float64) - want
        assert np.linalg.norm(error) < 0.004 * np.linalg.norm(want)  # bfloat16 keeps 8 bits, rounded twice


@interpreted
def test_gradients_of_improbable_targets_match_float64(monkeypatch):
    """Kept weights, and log-probabilities down to -300, where the weights relative to the target exceed float32."""
    monkeypatch.setattr(head, "block_moments_kernel", partial(block_moments_kernel, interpret=interpreter()))
    rng = np.random.default_rng(0)
    h, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, TILE, 64), (64, 3 * BLOCK)))
    w *= 6
    targets, weights = rng.integers(0, 3 * BLOCK, (1, TILE)), rng.normal(size=(1, TILE))

    def total(h, w):
        return (token_logprobs(h, w, jnp.asarray(targets), 1.0, TILE, "rows")[0] * weights).sum()

    got = jax.jit(jax.grad(total, argnums=(0, 1)))(h, w)
    states, matrix = np.asarray(h[0], np.float64), np.asarray(w, np.float64)
    z = states @ matrix
    logq = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    logp = logq[np.arange(TILE), targets[0]]
    assert logp.min() < -200 and 50 < (logp < head.LEAST_LOGP).sum() < TILE
    dz = weights[0][:, None] * ((np.arange(3 * BLOCK) == targets[0][:, None]) - np.exp(logq))
    for found, want in zip(got, (dz @ matrix.T, states.T @ dz), strict=True):
        error = np.asarray(found, np.float64).reshape(want.shape) - want
        assert np.linalg.norm(error) < 0.004 * np.linalg.norm(want)


@pytest.mark.parametrize(("rows", "columns", "together"), [(7, 5, 3), (2, 4, 8), (6, 3, 3), (3, 2, 1)])
def test_each_tile_has_its_turn(rows, columns, together):
    def rank(place):
        row, column = place
        return row // together, column, row

    found = jax.vmap(lambda tile: place_of(tile, rows, columns, together))(jnp.arange(rows * columns))
    assert list(zip(*(x.tolist() for x in found), strict=True)) == sorted(np.ndindex(rows, columns), key=rank)


@interpreted
def test_moments_of_one_tile_and_a_matrix_by_rows():
    """One of the two programs has no tile."""
    rng = np.random.default_rng(0)
    h, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((TILE, 64), (64, BLOCK)))
    got = block_moments_kernel(h, w, transposed=False, scale=0.5, interpret=interpreter())
    z = 0.5 * np.asarray(h, np.float64) @ np.asarray(w, np.float64)
    x = z - z.max(axis=1, keepdims=True)
    want = z.max(axis=1), (2**x).sum(axis=1), (2**x * x).sum(axis=1)
    np.testing.assert_allclose(got[0][:, 0], np.stack(want), rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize(
    ("form", "chunk", "entropies", "kernels"),
    [("rows", 8192, True, 2), ("columns", 8192, False, 2), ("columns", 32_768, True, 2), ("rows", 32_768, False, 1)],
)
def test_kernels_lower_for_hopper_without_an_array_of_logits(form, chunk, entropies, kernels, monkeypatch):
    """Lowering checks layouts and shared memory; the sizes are those of Qwen2.5-0.5B.

    Logits are computed once if the chunk has all tokens and entropies have no gradient, else twice.
    """
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    D, V = 896, 151_936
    h, y = jax.ShapeDtypeStruct((64, 512, D), jnp.bfloat16), jax.ShapeDtypeStruct((64, 512), jnp.int32)
    stored = jax.ShapeDtypeStruct((V, D) if form == "columns" else (D, V), jnp.bfloat16)

    def run(h, stored, y):
        def values(h, stored):
            found = token_logprobs(h, stored.T if form == "columns" else stored, y, 1.0, chunk, form)
            return found[0].sum() + found[1].sum() if entropies else found[0].sum()

        return jax.grad(values, argnums=(0, 1))(h, stored)

    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    program = jax.export.export(jax.jit(run), platforms=["cuda"], disabled_checks=unchecked)(h, stored, y)
    text = program.mlir_module()
    assert text.count("custom_call @mosaic_gpu_v2") == kernels
    assert f"{chunk}x{V}xbf16" in text and f"{chunk}x{V}xf32" not in text
    assert chunk == 32_768 or f"32768x{V}" not in text


def test_when_the_kernels_apply(monkeypatch):
    tied, untied = (ModelConfig(kernels="mosaic", tie_embeddings=tied) for tied in (True, False))
    assert head_of(tied) == "plain"  # the devices of this process are not Hopper GPUs
    monkeypatch.setattr(platform, "runs_here", lambda kernels: True)
    assert head_of(tied) == "columns" and head_of(untied) == "rows"
    assert head_of(ModelConfig(kernels="plain")) == head_of(ModelConfig(kernels="triton")) == "plain"

    def arrays(D, V, dtype="bfloat16"):
        return jax.ShapeDtypeStruct((2, 3, D), dtype), jax.ShapeDtypeStruct((D, V), dtype)

    assert applies("rows", *arrays(896, 151_936)) and not applies("plain", *arrays(896, 151_936))
    assert not applies("rows", *arrays(64, 50_257)) and not applies("rows", *arrays(96, 128))
    assert not applies("rows", *arrays(64, 128, "float32"))
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert not applies("rows", *arrays(896, 151_936))
