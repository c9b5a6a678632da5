"""Packed attention against attention with a mask of all pairs; a stand-in does what cuDNN's packed layout does."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from r1jax.errors import UserError
from r1jax.kernels import packed_attention as packed
from r1jax.models import attention
from r1jax.models.attention import causal_attention, check_attention, implementation
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.models.segment_attention import spans
from r1jax.sharding import batch_sharding, make_mesh

# Segments of rows of 64 positions, whose rest is padding; parts are 8 to 15 wide at least.
LENGTHS = ([9, 17, 3, 8, 16, 1, 10], [64], [1, 2, 30, 1, 1, 29], [33, 31], [16, 16, 16], [2] * 32)
dot_product_attention = jax.nn.dot_product_attention


def numbered(lengths, width=64):
    rows = np.zeros((len(lengths), width), np.int32)
    for row, of_row in zip(rows, lengths, strict=True):
        row[: sum(of_row)] = np.repeat(np.arange(1, len(of_row) + 1), of_row)
    return rows


def places(lengths, offsets, width):
    """The slot of each position of all rows counted through, as cuDNN reads lengths and offsets; -1 for none."""
    at = jnp.arange(len(lengths) * width)
    begin = (offsets[:, :-1] + width * jnp.arange(len(lengths))[:, None]).reshape(-1, 1)
    count = jnp.where(offsets[:, :-1] < 0, 0, lengths).reshape(-1, 1)
    inside = (begin <= at) & (at < begin + count)
    return jnp.where(inside.any(axis=0), inside.argmax(axis=0), -1)


def attended(q, k, v, place, scale):
    mask = place[:, None, :, None] == place[:, None, None]
    return dot_product_attention(q, k, v, mask=mask, scale=scale, is_causal=True)


def written(x, place):
    return jnp.where(place[..., None, None] >= 0, x, jnp.nan)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def in_slots(q, k, v, place, scale):
    return written(attended(q, k, v, place, scale), place)


def in_slots_backward(scale, saved, g):
    q, k, v, place = saved
    g = jnp.where(place[..., None, None] >= 0, g, 0)
    found = jax.vjp(lambda *x: attended(*x, place, scale), q, k, v)[1](g)
    return *(written(x, place) for x in found), None


in_slots.defvjp(lambda *x: (in_slots(*x), x[:4]), in_slots_backward)


def stand_in(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type):
    """Causal attention within each slot. Elsewhere neither results nor gradients are written: they are nan."""
    assert mask_type == packed.fused.MaskType.PADDING_CAUSAL
    assert kv_seqlen is q_seqlen and kv_offsets is q_offsets
    place = places(q_seqlen, q_offsets, q.shape[1])[None]
    return in_slots(*(x.reshape(1, -1, *x.shape[2:]) for x in (q, k, v)), place, scale).reshape(q.shape)


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(packed, "LEAST_WIDTH", 8)
    monkeypatch.setattr(packed.fused, "dot_product_attention", stand_in)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, implementation, **named: plain(*x, **named))


def plain(*arrays, **named):
    return dot_product_attention(*arrays, **named)


@pytest.mark.parametrize("T", [64, 61, 7])
def test_values_and_gradients_are_those_of_all_pairs(T, without_gpu):
    """At all positions, padding included, of lengths that divide by all widths, and of odd and short ones."""
    rng = np.random.default_rng(0)
    q, k, v, g = (rng.normal(size=(len(LENGTHS), T, n, 6)).astype(np.float32) for n in (4, 2, 2, 4))
    segments = numbered(LENGTHS)[:, :T]

    def masked(q, k, v):
        mask = segments[:, None, :, None] == segments[:, None, None]
        return dot_product_attention(q, k, v, mask=mask, scale=0.7, is_causal=True)

    def both(attend):
        y, back = jax.vjp(attend, q, k, v)
        return y, *back(g)

    found, want = jax.jit(both, static_argnums=0)(lambda *x: packed.packed_attention(*x, segments, 0.7)), both(masked)
    for x, y in zip(found, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_parts_of_a_device_are_those_of_its_rows(without_gpu, monkeypatch):
    """jax calls cuDNN with the part of each array that a device has, so all arrays must be split alike."""
    found = []

    def seen(*arrays, **named):
        for x in (*arrays, *named.values()):
            if isinstance(x, jax.Array):
                jax.debug.inspect_array_sharding(x, callback=found.append)
        return arrays[0]

    monkeypatch.setattr(packed.fused, "dot_product_attention", seen)
    monkeypatch.setattr(jax.nn, "dot_product_attention", seen)
    with jax.set_mesh(make_mesh("2x1")):
        segments = jax.device_put(numbered(LENGTHS[:4]), PartitionSpec())  # whole on each device
        q = jax.device_put(np.ones((4, 64, 2, 4), np.float32), batch_sharding())
        jax.jit(lambda *x: packed.packed_attention(*x, 1.0)).lower(q, q, q, segments).compile()
    assert len(found) == 4 + 3 * 7  # with a mask, or lengths and offsets, each twice
    assert [sharding.shard_shape((8, 1, 1, 1))[0] for sharding in found] == [4] * len(found)


def test_slots_against_a_loop():
    """Each segment is in a slot of the part in which it begins, in the order of its part, for exactly one width."""
    rng = np.random.default_rng(1)
    rows = [numbered(LENGTHS)]
    rows += [np.sort(rng.integers(0, most, (8, 64)), axis=1) for most in (2, 5, 40)]
    slots = jax.jit(packed.slots, static_argnums=3)
    for segments in rows:
        begin, length = jax.device_get(jax.jit(spans)(segments))
        found = []
        for width in (16, 32, 64):
            here = (length > width // 2) & (length <= width)
            lengths, offsets = jax.device_get(slots(begin, length, here, width))
            assert (offsets[:, -1] == -1).all()
            assert (lengths < 0).tolist() == (offsets[:, :-1] < 0).tolist()
            for part, (counts, starts) in enumerate(zip(lengths.tolist(), offsets[:, :-1].tolist(), strict=True)):
                assert starts[1] < 0 or 0 <= starts[0] < starts[1]
                row, shift = divmod(part, 64 // width)
                found += [(row, shift * width + s, n) for s, n in zip(starts, counts, strict=True) if s >= 0]
        want = [(row, x.index(n), x.count(n)) for row, x in enumerate(segments.tolist()) for n in dict.fromkeys(x)]
        assert sorted(found) == [one for one in want if one[2] > 8]


def test_the_cuda_program_has_the_packed_layout_and_no_mask_of_all_pairs(monkeypatch):
    """Lowered without a GPU: each width has a call forward, its recomputation, and one backward."""
    monkeypatch.setattr(packed.fused, "check_cudnn_version", lambda: 91_300)
    monkeypatch.setattr(packed.fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(packed.fused, "is_cuda_compute_capability_equal", lambda capability: False)
    B, T, config = 2, 1024, ModelConfig(attention="packed", dtype="bfloat16")
    q, k = (jax.ShapeDtypeStruct((B, T, heads, 64), jnp.bfloat16) for heads in (14, 2))

    def loss(q, k, v, segments):
        return causal_attention(q, k, v, config, segments).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k, jax.ShapeDtypeStruct((B, T), jnp.int32))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert not re.search(rf"tensor<(\d+x)*{T}x{T}x", text)
    packed_calls = [line for line in text.splitlines() if "__cudnn$fmhaSoftmax" in line and "PADDING_CAUSAL" in line]
    widths = sorted(re.search(r"\(tensor<(\d+x\d+)x14x64xbf16>", line)[1] for line in packed_calls)
    forward = [line for line in packed_calls if "Backward" not in line]
    assert set(widths) == {"2x1024", "4x512", "8x256"}
    assert len(packed_calls) - len(forward) == 3 and len(forward) in (3, 6)
    for line in packed_calls:
        assert re.search(r"max_seg_per_batch\\22: 2,", line)
        assert f"fmha_scale\\22: {64**-0.5}" in line
        # Two slots for a part, and offsets with an end.
        parts = int(re.search(r"\(tensor<(\d+)x", line)[1])
        assert f"tensor<{parts}x2xi32>, tensor<{parts}x2xi32>, tensor<{parts}x3xi32>, tensor<{parts}x3xi32>)" in line


@pytest.mark.parametrize(
    ("length", "config", "devices", "chosen"),
    [
        (4097, ModelConfig(dtype="bfloat16"), 1, True),
        (4096, ModelConfig(dtype="bfloat16"), 1, False),  # a mask is faster
        (4097, ModelConfig(dtype="bfloat16", attention="cudnn"), 1, False),
        (4097, ModelConfig(dtype="float32"), 1, False),  # cuDNN needs 16 bits
        (4097, ModelConfig(dtype="bfloat16"), 2, False),
        (2, ModelConfig(attention="packed"), 2, True),
    ],
)
def test_which_rows_are_packed_on_a_hopper_gpu(length, config, devices, chosen, monkeypatch):
    if config.dtype == "bfloat16":
        monkeypatch.setattr(attention, "implementation", lambda config: "cudnn")
    monkeypatch.setattr(packed, "runs_here", lambda: True)
    with jax.set_mesh(make_mesh(f"{devices}x1")):
        assert attention.packs(config, length) == chosen


def test_without_a_hopper_gpu_long_rows_are_not_packed(monkeypatch):
    monkeypatch.setattr(attention, "implementation", lambda config: "cudnn")
    assert not attention.packs(ModelConfig(dtype="bfloat16"), 10_000)


def test_without_segments_packed_is_cudnn_and_without_a_gpu_an_error():
    config = ModelConfig(attention="packed")
    assert implementation(config) == "cudnn"
    with pytest.raises(UserError, match="--attention=packed needs a Hopper GPU"):
        check_attention(ComputeOptions(attention="packed"))
