"""Latent attention over whole sequences against loops in float64, and decoding against whole sequences."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1jax.kernels import decode_attention
from r1jax.kernels.decode_attention import Context, kernels_of
from r1jax.models import rotary
from r1jax.models.attention import implementation
from r1jax.models.config import Latent
from r1jax.models.latent import LATENT as KIND
from r1jax.models.transformer import cast, forward, hidden_states, param_specs
from r1jax.sharding import batch_sharding, make_mesh, param_shardings, place
from r1jax.training.gradients import accumulate
from r1jax.training.language_model import cross_entropy_sums
from tests.helpers.latent import LATENT, PLAIN_QUERIES, sharp_params

LENGTH = 13
LARGE_VALUES = dataclasses.replace(LATENT, norm_eps=0.01, latent=dataclasses.replace(LATENT.latent, value_dim=14))


@pytest.fixture(scope="module")
def params():
    return {config: jax.device_get(sharp_params(config)) for config in (LATENT, PLAIN_QUERIES)}


def norm(x, weight, eps=1e-6):  # the default: of the compressed vectors in every model
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def turned(x, angles, factor):
    """The first half of the numbers are the real parts, the second half the imaginary parts."""
    z = (x[: len(x) // 2] + 1j * x[len(x) // 2 :]) * factor * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag])


def attended(h, weights, config):
    """Head by head and token by token: h [T, D] -> [T, D]."""
    own, frequencies, factor = config.latent, rotary.frequencies(config).astype(float), rotary.table_factor(config)
    N, T, total = own.nope_dim, len(h), np.zeros_like(h)
    down = h @ weights["kv_down"]
    vectors = norm(down[:, : own.kv_rank], weights["kv_norm"])
    shared = [turned(down[t, own.kv_rank :], t * frequencies, factor) for t in range(T)]
    x, up = (norm(h @ weights["query_down"], weights["query_norm"]), "query_up") if own.query_rank else (h, "query")
    for head in range(config.num_heads):
        queries, ups = x @ weights[up][:, head], vectors @ weights["kv_up"][:, head]
        for t in range(T):
            rotated = turned(queries[t, N:], t * frequencies, factor)
            scores = np.array([queries[t, :N] @ ups[s, :N] + rotated @ shared[s] for s in range(t + 1)])
            shares = np.exp(scores * rotary.score_factor(config) / np.sqrt(N + own.rope_dim))
            value = sum(share * ups[s, N:] for s, share in enumerate(shares / shares.sum()))
            total[t] += value @ weights["output"][head]
    return total


def logits_of(params, tokens, config):
    """Logits [T, V] in float64 of tokens [T]."""
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    x = params["embedding"][tokens]
    for layer in range(config.num_layers):
        weights = jax.tree.map(lambda w, layer=layer: w[layer], params["layers"])
        x = x + attended(norm(x, weights["attention_norm"], config.norm_eps), weights["attention"], config)
        h, mlp = norm(x, weights["mlp_norm"], config.norm_eps), weights["mlp"]
        gate = h @ mlp["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ mlp["up"])) @ mlp["down"]
    return norm(x, params["final_norm"], config.norm_eps) @ params["unembedding"]


@pytest.mark.parametrize("config", [LATENT, PLAIN_QUERIES, LARGE_VALUES], ids=["compressed", "plain", "large values"])
def test_logits_equal_loops_in_float64(config):
    params = jax.device_get(sharp_params(config))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, LENGTH))
    got = jax.jit(forward, static_argnums=2)(params, tokens, config)
    for row, want in zip(got, (logits_of(params, row, config) for row in tokens), strict=True):
        assert want.std() > 0.9
        np.testing.assert_allclose(row, want, atol=1e-5)


def test_each_text_of_a_packed_row_is_computed_by_itself(params):
    """The texts have 5 and 8 tokens; positions go on from the first to the second."""
    tokens = np.random.default_rng(1).integers(0, LATENT.vocab_size, LENGTH)
    segments = (np.arange(LENGTH) >= 5).astype(np.int32)
    got = packed(params[LATENT], tokens[None], segments[None], LATENT)[0]
    want = np.concatenate([logits_of(params[LATENT], text, LATENT) for text in (tokens[:5], tokens[5:])])
    np.testing.assert_allclose(got, want, atol=1e-5)


@partial(jax.jit, static_argnums=3)
def packed(params, tokens, segments, config):
    return hidden_states(params, tokens, config, segments=segments)[0] @ params["unembedding"]


@partial(jax.jit, static_argnums=(2, 3))
def gradient(params, batch, config, microbatches=1):
    """Of the cross-entropy, summed over a batch of 8 rows."""

    def part(params, rows):
        return cross_entropy_sums(params, rows, config=config, chunk=64)

    return accumulate(part, cast(params, config), batch, microbatches, config)[0][0]


@pytest.fixture(scope="module")
def batch():
    tokens = np.random.default_rng(2).integers(0, LATENT.vocab_size, (8, LENGTH + 1))
    segments = np.broadcast_to(np.arange(LENGTH) >= 5, (8, LENGTH)).astype(np.int32)
    return {"tokens": tokens, "mask": np.ones((8, LENGTH), bool), "segments": segments}


@pytest.fixture(scope="module")
def exact(params, batch):
    return jax.device_get(gradient(params[LATENT], batch, LATENT))


def farthest(got, want):
    """The largest error of a weight's gradient, relative to the norm of that gradient."""
    errors = jax.tree.map(lambda a, b: np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b), got, want)
    return max(jax.tree.leaves(errors))


@pytest.mark.parametrize(("mesh", "options", "microbatches"), [("2x2", {"remat": "block"}, 4), ("1x8", {}, 1)])
def test_gradients_do_not_depend_on_the_mesh_and_recomputation(params, batch, exact, mesh, options, microbatches):
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(params[LATENT], param_shardings(param_specs(LATENT), mesh))
        rows = jax.device_put(batch, batch_sharding())
        got = jax.device_get(gradient(spread, rows, dataclasses.replace(LATENT, **options), microbatches))
    assert farthest(got, exact) < 1e-5


def test_gradients_in_bfloat16_are_close_to_those_in_float32(params, batch, exact):
    config = dataclasses.replace(LATENT, remat="dots", dtype="bfloat16")
    assert farthest(jax.device_get(gradient(params[LATENT], batch, config)), exact) < 0.05


@pytest.mark.parametrize("config", [LATENT, PLAIN_QUERIES], ids=["compressed", "plain"])
def test_decoding_equals_whole_sequences(params, config):
    """One block: three slots with two prompts of unequal length, a ring of 6 that wraps, and old entries in it.

    Slots 0 and 2 share the prompt of 5 tokens, of which slot 2 is refilled at the third step.
    """
    own = jax.tree.map(lambda w: w[0], params[config]["layers"]["attention"])
    rng = np.random.default_rng(0)
    h = rng.normal(size=(4, 5 + 6, config.hidden_size)).astype(np.float32)  # three sequences, and that of the refill
    h[2:, :5] = h[0, :5]
    attend = jax.jit(partial(KIND.attend, config=config, segments=None))
    tables = jax.jit(rotary.tables, static_argnums=1)
    whole, (kept,) = jax.device_get(attend(h, own, tables(np.arange(11), config)))
    assert kept.shape == (4, 11, 12 + 4)
    prefix, ring = (kept[:2, :5],), (rng.normal(size=(3, 6, 16)).astype(np.float32),)
    weights = KIND.decoding_weights(own, config)
    sequence, age, length = np.arange(3), np.zeros(3, int), np.array([5, 3, 5])
    decode = jax.jit(partial(KIND.decode, config=config))
    for step in range(6):
        if step == 2:
            sequence, age = np.array([0, 1, 3]), age * [1, 1, 0]
        at = length + age
        context = Context(np.array([0, 1, 0]), length, age)
        y, ring = decode(h[sequence, at], weights, tables(at, config), prefix, ring, context, (4 + step) % 6)
        np.testing.assert_allclose(y, whole[sequence, at], atol=1e-5)
        age = age + 1


def test_kernels_are_chosen_for_what_they_support(monkeypatch):
    """On a GPU: no decoding kernel; cuDNN up to 128 numbers of a key or value, and up to 256 on Hopper GPUs."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(decode_attention, "choose", lambda wanted: "triton")

    def config(nope_dim, value_dim):
        latent = Latent(nope_dim=nope_dim, rope_dim=64, value_dim=value_dim)
        return dataclasses.replace(LATENT, head_dim=nope_dim + 64, latent=latent, dtype="bfloat16")

    assert [implementation(config(*sizes)) for sizes in ((128, 128), (64, 128), (64, 192))] == ["xla", "cudnn", "xla"]
    for capability, kernel in (("8.0", "xla"), ("9.0", "cudnn"), ("10.0", "xla")):
        monkeypatch.setattr(jax, "devices", lambda found=capability: [SimpleNamespace(compute_capability=found)])
        assert implementation(config(128, 128)) == kernel  # of DeepSeek-V3
        assert [implementation(config(*sizes)) for sizes in ((64, 128), (256, 128))] == ["cudnn", "xla"]
    grouped = dataclasses.replace(config(64, 128), latent=None)
    assert kernels_of(config(64, 128)) == "plain" and kernels_of(grouped) == "triton"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 12}, r"head_dim 12 is not nope_dim \+ rope_dim, 6 \+ 4"),
        ({"num_kv_heads": 4}, "keys of 8 heads, not of 4"),
        ({"attention_bias": True}, "no attention_bias"),
        ({"qk_norm": True}, "no qk_norm"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LATENT, **options)
