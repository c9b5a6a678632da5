"""Decoding kernels in Mosaic: interpreted on a CPU, and lowered for a GPU; which kernels are chosen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.kernels import decode_attention_mosaic, platform
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.add_norm_mosaic import add_norm_mosaic
from r1jax.kernels.block_attention import block_attention
from r1jax.kernels.block_sums import BLOCK, block_sums
from r1jax.kernels.block_sums_mosaic import block_sums_mosaic
from r1jax.kernels.decode_attention import Context, attend_block, attention_kernels, decode_attention, kernels_of
from r1jax.kernels.decode_attention_mosaic import decode_attention_mosaic as attend
from r1jax.models import rotary
from r1jax.models.attention import write_block
from r1jax.models.cache import ring_length
from r1jax.models.config import ModelConfig

interpreted = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")


def interpreter():
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    return InterpretGPUParams()


def request(S, G, heads, K, prefix, ring, biased):
    """Slots with an empty ring, a nearly full one, and one that wraps; prompts of minimum, full and other lengths."""
    rng = np.random.default_rng(ring)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

    age, length = (jnp.array(x[:S], jnp.int32) for x in ([ring - 1, 0, ring // 2], [min(33, prefix), 1, prefix]))
    return (
        normal(S, G, heads + 2, K),
        normal(G, heads + 2, K) if biased else None,
        rotary.tables(length + age, ModelConfig(head_dim=K)),
        (normal(2, G, prefix, K), normal(2, G, prefix, K)),
        (normal(S, G, ring, K), normal(S, G, ring, K)),
        Context(jnp.array([1, 0, 1][:S], jnp.int32), length, age),
        jnp.int32(ring // 4),
    )


def by_hand(qkv, bias, tables, prefix, ring, context, entry):
    """[S, G, heads, K] in float64, token by token; the rotated queries and keys are rounded to bfloat16."""
    qkv = qkv if bias is None else qkv + bias
    turned = np.asarray(rotary.rotate(qkv[:, :, :-1], *(x[:, None] for x in tables)), np.float64)
    values = np.asarray(qkv[:, :, -1], np.float64)
    prefix, ring = ([np.asarray(x, np.float64) for x in pair] for pair in (prefix, ring))
    out = np.zeros((*turned.shape[:2], turned.shape[2] - 1, turned.shape[3]))
    for s, g in np.ndindex(out.shape[:2]):
        prompt, length, age = (int(x[s]) for x in (context.prompt, context.prefix_length, context.age))
        own = [(int(entry) - back) % ring[0].shape[2] for back in range(1, age + 1)]
        k = np.concatenate([prefix[0][prompt, g, :length], ring[0][s, g, own], turned[s, g, -1:]])
        v = np.concatenate([prefix[1][prompt, g, :length], ring[1][s, g, own], values[s, g][None]])
        weights = np.exp(turned[s, g, :-1] @ k.T / np.sqrt(k.shape[1]))
        out[s, g] = weights @ v / weights.sum(axis=1, keepdims=True)
    return out


@interpreted
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((3, 1, 7, 64, 70, 136, True), (1, 1, 1)),
        ((2, 1, 6, 128, 20, 264, False), (2, 2, 1, 64, 64)),
        ((1, 2, 8, 64, 130, 328, True), (1, 3, 2)),
        ((2, 1, 9, 128, 8, 72, False), (1, 2, 1, 128, 16)),
    ],
)
def test_decode_attention_equals_float64(sizes, shape, monkeypatch):
    """Blocks that start within the rows of another slot, a last prompt that is padded, and keys that are shared.

    The numbers are a Shape. Later tokens of prompts and entries of the ring without a token are not numbers: any use of
    them would be seen.
    """
    monkeypatch.setattr(decode_attention_mosaic, "shape_of", lambda *_: decode_attention_mosaic.Shape(*shape))
    qkv, bias, tables, prefix, ring, context, entry = request(*sizes)
    R, width = sizes[5], sizes[4]
    used = (entry - 1 - jnp.arange(R)) % R < context.age[:, None]
    lengths = jnp.zeros(2, jnp.int32).at[context.prompt].max(context.prefix_length)
    written = jnp.arange(width) < lengths[:, None]
    ring = tuple(jnp.where(used[:, None, :, None], x, jnp.nan) for x in ring)
    prefix = tuple(jnp.where(written[:, None, :, None], x, jnp.nan) for x in prefix)
    arguments = qkv, bias, tables, prefix, ring, context, entry
    got, written = attend(*arguments, interpret=interpreter())
    assert np.abs(np.asarray(got, np.float64) - by_hand(*arguments)).max() < 0.02
    _, want = decode_attention(*arguments, kernels="plain")
    for a, b in zip(written, want, strict=True):
        np.testing.assert_array_equal(a.astype(jnp.float32), b.astype(jnp.float32))


@interpreted
def test_add_norm_equals_plain_jax():
    rng = np.random.default_rng(0)
    x, y, weight = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((3, 256), (3, 256), (256,)))
    got, plain = add_norm_mosaic(x, y, weight, 1e-2, interpret=interpreter()), add_norm(x, y, weight, 1e-2, "plain")
    np.testing.assert_array_equal(got[0].astype(jnp.float32), plain[0].astype(jnp.float32))
    np.testing.assert_allclose(got[1].astype(jnp.float32), plain[1].astype(jnp.float32), rtol=2**-7)


@interpreted
def test_block_sums_equal_float64():
    """Five steps of two programs, the last one partly beyond the end."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(4, 69 * BLOCK)) * 5).astype(np.float32)
    logits[0, BLOCK : 2 * BLOCK] = -np.inf  # a block without mass
    logits[1, 300] = 80.0
    blocks = logits.reshape(4, 69, BLOCK).astype(np.float64)
    tops = np.maximum(blocks.max(axis=-1), np.finfo(np.float32).min)
    got = block_sums_mosaic(jnp.asarray(logits), BLOCK, interpret=interpreter())
    np.testing.assert_array_equal(got[0], tops.astype(np.float32))
    np.testing.assert_allclose(got[1], np.exp(blocks - tops[..., None]).sum(axis=-1), rtol=1e-5)


@interpreted
def test_attention_of_several_tokens_equals_plain_jax():
    """Two tokens of two slots; the kernel takes their queries as those of one token, at an entry of each slot."""
    _, _, _, prefix, cached, context, _ = request(2, 1, 3, 64, 20, 64, False)
    context = dataclasses.replace(context, age=jnp.minimum(context.age, 61))
    rng = np.random.default_rng(1)
    new = [jnp.asarray(rng.normal(size=(2, 2, 1, *x, 64)), jnp.bfloat16) for x in ((3,), (), ())]
    written = tuple(write_block(x, y, context.age) for x, y in zip(cached, new[1:], strict=True))
    want = attend_block(new[0], prefix, written, context, 64**-0.5)
    got, cache = block_attention(*new, prefix, cached, context, "mosaic", interpret=interpreter())
    assert np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)).max() < 0.02
    for x, y in zip(cache, new[1:], strict=True):
        np.testing.assert_array_equal(x[np.arange(2), :, context.age].astype(np.float32), y[:, 0].astype(np.float32))


@interpreted
@pytest.mark.parametrize(("S", "G", "heads", "K"), [(512, 2, 7, 64), (3, 4, 7, 128)])
def test_kernels_lower_for_hopper_in_a_loop(S, G, heads, K):
    """Lowering checks layouts and shared memory; the sizes are those of Qwen2.5 0.5B and 7B."""

    def struct(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype)

    whole, D = struct(S, dtype=jnp.int32), {64: 896, 128: 3584}[K]
    table = struct(S, K // 2, dtype=jnp.float32)
    cached = (struct(32, G, 128, K),) * 2, (struct(S, G, 512, K),) * 2

    def run(qkv, bias, rotation, prefix, ring, context, x, weight, logits):
        def step(i, carry):
            ring, x = carry
            y, ring = decode_attention(qkv, bias, rotation, prefix, ring, context, i, "mosaic")
            return ring, add_norm(x, x + y.astype(x.dtype).sum(), weight, 1e-6, "mosaic")[1]

        return jax.lax.fori_loop(0, 3, step, (ring, x)), block_sums(logits, "mosaic")

    operands = (struct(S, G, heads + 2, K), struct(G, heads + 2, K), (table, table), *cached)
    others = (Context(whole, whole, whole), struct(S, D), struct(D), struct(S, 151_936, dtype=jnp.float32))
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    program = jax.export.export(jax.jit(run), platforms=["cuda"], disabled_checks=unchecked)(*operands, *others)
    assert program.mlir_module().count("custom_call @mosaic_gpu_v2") == 3


def test_which_kernels_are_chosen(monkeypatch):
    config = ModelConfig(head_dim=64, dtype="bfloat16", kernels="mosaic")
    assert platform.choose("auto") == "plain" and kernels_of(config) == "plain" and ring_length(13, config) == 13
    with pytest.raises(UserError, match="--kernels=mosaic needs a Hopper GPU and jax"):
        platform.check_kernels("mosaic")
    platform.check_kernels("auto")
    assert platform.missing_kernels("auto") == ""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(platform, "triton", None)
    assert platform.choose("auto") == "plain"  # the devices of this process are not Hopper GPUs
    assert platform.missing_kernels("auto").startswith("warning: ") and platform.missing_kernels("plain") == ""
    monkeypatch.setattr(platform, "runs_here", lambda kernels: True)
    assert platform.choose("auto") == platform.ORDER[0] and platform.missing_kernels("auto") == ""
    assert platform.described("auto") == "triton, and mosaic for head, few rows, gated product, few pairs"
    names = ("auto", "triton", "mosaic", "plain")
    assert [platform.batched_kernels(name) for name in names] == ["triton", "triton", "plain", "plain"]
    assert [platform.described(name) for name in ("mosaic", "triton", "plain")] == ["mosaic", "triton", "plain"]
    assert kernels_of(config) == "mosaic" and ring_length(13, config) == 16 and ring_length(1000, config) == 1024
    assert kernels_of(ModelConfig(head_dim=32, dtype="bfloat16", kernels="mosaic")) == "plain"
    assert kernels_of(ModelConfig(head_dim=64, kernels="mosaic")) == "plain"  # float32
    auto, triton = (dataclasses.replace(config, kernels=name) for name in ("auto", "triton"))
    chosen = [attention_kernels(one, pairs) for one in (auto, triton) for pairs in (256, 257)]
    assert chosen == ["mosaic", "triton", "triton", "triton"]
    assert (ring_length(13, auto), ring_length(13, triton)) == (16, 13)
    narrow = dataclasses.replace(auto, head_dim=32)  # a size that only Triton's kernels support
    assert attention_kernels(narrow, 1) == kernels_of(narrow) == "triton"
