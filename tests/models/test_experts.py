"""Routed experts against float64 references in NumPy, one token and one expert at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.config import Experts, ModelConfig
from r1jax.models.experts import ROUTED, route, specs
from r1jax.models.transformer import forward, hidden_states, param_specs
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import make_mesh, map_specs, param_shardings, place
from tests.helpers.training import random_params
from tests.models.helpers import experts_alone, with_experts

FAMILIES = {
    "deepseek_v3": Experts(
        16, 4, 8, 16, 0, "sigmoid", normalise=True, scale=2.5, groups=4, active_groups=2, group_score="two highest",
        bias=True,
    ),
    "deepseek_v2": Experts(16, 3, 8, 16, 0, "softmax", normalise=False, scale=16.0, groups=4, active_groups=2),
    "mixtral": Experts(8, 2, 8),
    "qwen3_moe": Experts(16, 4, 8, normalise=True),
    "qwen3_moe without norm_topk_prob": Experts(16, 4, 8, normalise=False),
    "olmoe": Experts(16, 4, 8, normalise=False),
}  # fmt: skip

routed = jax.jit(route, static_argnums=2)
block = jax.jit(ROUTED.apply, static_argnums=2)
block_gradient = jax.jit(
    jax.grad(lambda w, h, config: jnp.square(ROUTED.apply(h, w, config, None)[0]).sum(), argnums=(0, 1)),
    static_argnums=2,
)
PROMPTS = [[5, 9, 2], [7, 1, 4]]


def config_of(experts):
    return ModelConfig(hidden_size=16, experts=experts)


def draw(config, scale=1.0):
    """Weights of a layer with large routers, and 40 tokens."""
    rng = np.random.default_rng(1)
    weights = map_specs(lambda spec: rng.normal(0, 0.4, spec.shape).astype(np.float32), specs(config))
    if config.experts.bias:
        weights["router_bias"] = rng.normal(0, 0.3 * scale, config.experts.number).astype(np.float32)
    return weights, rng.normal(size=(2, 20, config.hidden_size)).astype(np.float32)


def best(values, n):
    """Places of the n highest values, the first of equal ones first."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]


def reference_choice(logits, bias, family):
    """Experts and weights of one token, from its float64 logits."""
    own = FAMILIES[family]
    if family == "deepseek_v3":
        scores = 1 / (1 + np.exp(-logits))
        biased = scores + bias
        groups = biased.reshape(4, 4)
        kept = best([sum(sorted(group)[-2:]) for group in groups], 2)
        allowed = [e for e in range(16) if e // 4 in kept]
        chosen = [allowed[i] for i in best(biased[allowed], 4)]
        return chosen, 2.5 * scores[chosen] / scores[chosen].sum()
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    if family == "deepseek_v2":
        kept = best(scores.reshape(4, 4).max(axis=1), 2)
        allowed = [e for e in range(16) if e // 4 in kept]
        chosen = [allowed[i] for i in best(scores[allowed], 3)]
        return chosen, 16 * scores[chosen]
    chosen = best(scores, own.active)
    # The softmax over the chosen alone, which is how Mixtral's paper writes it (arXiv 2401.04088).
    alone = np.exp(logits[chosen] - logits[chosen].max())
    return chosen, alone / alone.sum() if own.normalise else scores[chosen]


@pytest.mark.parametrize("family", FAMILIES)
def test_routing_equals_a_float64_reference(family):
    config = config_of(FAMILIES[family])
    weights, h = draw(config)
    routing, share = routed(h, weights, config)
    logits = np.asarray(h, np.float64) @ np.asarray(weights["router"], np.float64)
    bias = np.asarray(weights.get("router_bias", 0.0), np.float64)
    for at in np.ndindex(h.shape[:2]):
        chosen, expected = reference_choice(logits[at], bias, family)
        assert routing.chosen[at].tolist() == chosen
        np.testing.assert_allclose(share[at], expected, rtol=2e-5)


def test_negative_biases_do_not_bring_back_excluded_groups():
    """Deepseek's inference code excludes groups by -inf. With 0 in its place, excluded groups would win here."""
    config = config_of(FAMILIES["deepseek_v3"])
    weights, h = draw(config)
    below = dict(weights, router_bias=np.full(16, -3.0, np.float32))
    equal = dict(weights, router_bias=np.zeros(16, np.float32))
    np.testing.assert_array_equal(routed(h, below, config)[0].chosen, routed(h, equal, config)[0].chosen)


@pytest.mark.parametrize("family", FAMILIES)
def test_ties_go_to_the_lower_index(family):
    config = config_of(FAMILIES[family])
    weights, h = draw(config, scale=0.0)
    routing, share = routed(h, dict(weights, router=np.zeros_like(weights["router"])), config)
    np.testing.assert_array_equal(routing.chosen, np.broadcast_to(np.arange(config.experts.active), share.shape))


def test_the_bias_chooses_and_weighs_nothing():
    """It moves the choice, has no gradient, and the weights of a choice are those of the scores alone."""
    config = config_of(FAMILIES["deepseek_v3"])
    weights, h = draw(config)
    free, _ = routed(h, dict(weights, router_bias=np.zeros(16, np.float32)), config)
    routing, share = routed(h, weights, config)
    assert (np.asarray(routing.chosen) != np.asarray(free.chosen)).any()
    picked = np.take_along_axis(np.asarray(free.scores, np.float64), np.asarray(routing.chosen), axis=-1)
    np.testing.assert_allclose(share, 2.5 * picked / picked.sum(axis=-1, keepdims=True), rtol=1e-5)
    gradient, _ = block_gradient(weights, h, config)
    assert not np.asarray(gradient["router_bias"]).any() and np.asarray(gradient["router"]).any()


def test_replayed_experts_are_used_with_the_routers_own_scores():
    config = config_of(FAMILIES["deepseek_v3"])
    weights, h = draw(config)
    free, plain = routed(h, weights, config)
    given = (np.asarray(free.chosen) + 5) % 16
    routing, share = routed(h, weights, config, given.astype(np.uint8))
    np.testing.assert_array_equal(routing.experts, given)
    np.testing.assert_array_equal(routing.chosen, free.chosen)
    picked = np.take_along_axis(np.asarray(free.scores, np.float64), given, axis=-1)
    np.testing.assert_allclose(share, 2.5 * picked / picked.sum(axis=-1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(routed(h, weights, config, free.chosen)[1], plain)


def by_hand(h, weights, config, routing=None):
    """The block in float64, expert by expert, with the experts and shares of ``route`` or of ``routing``."""
    if routing is None:
        chosen, share = routed(h, weights, config)
        routing = chosen.experts, share
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    rows = np.asarray(h, np.float64)

    def swiglu(x, gate, up, down):
        pre = x @ gate
        return (pre / (1 + np.exp(-pre)) * (x @ up)) @ down

    total = np.zeros(rows.shape)
    for e in range(config.experts.number):
        used = (np.asarray(routing[1], np.float64) * (np.asarray(routing[0]) == e)).sum(axis=-1)
        total += used[..., None] * swiglu(rows, w["gate"][e], w["up"][e], w["down"][e])
    if config.experts.shared_width:
        total += swiglu(rows, w["shared_gate"], w["shared_up"], w["shared_down"])
    return total


@pytest.mark.parametrize("family", ["deepseek_v3", "mixtral"])
def test_the_block_equals_a_sum_over_all_experts(family):
    config = config_of(FAMILIES[family])
    weights, h = draw(config)
    y, _ = block(h, weights, config, None)
    expected = by_hand(h, weights, config)
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


def test_gradients_equal_differences_in_float64():
    """Along a random direction of each array, for the choice that the router makes."""
    config = config_of(FAMILIES["deepseek_v3"])
    weights, h = draw(config)
    gradient, of_h = block_gradient(weights, h, config)
    experts = np.asarray(routed(h, weights, config)[0].experts)
    at = dict(weights, h=h)

    def total(moved):
        scores = np.take_along_axis(1 / (1 + np.exp(-moved["h"] @ moved["router"])), experts, axis=-1)
        share = 2.5 * scores / scores.sum(axis=-1, keepdims=True)
        return np.square(by_hand(moved["h"], moved, config, (experts, share))).sum()

    rng = np.random.default_rng(2)
    for name, slope in dict(gradient, h=of_h).items():
        way = rng.normal(size=slope.shape)
        up, down = (total(dict(at, **{name: np.float64(at[name]) + step * way})) for step in (1e-6, -1e-6))
        np.testing.assert_allclose((np.float64(slope) * way).sum(), (up - down) / 2e-6, rtol=1e-4, err_msg=name)


def test_the_backward_pass_stores_the_products_of_experts_in_their_own_type():
    config = config_of(FAMILIES["deepseek_v3"])
    weights, h = jax.tree.map(lambda x: x.astype(jnp.bfloat16), draw(config))
    stored = jax.eval_shape(lambda h, w: jax.vjp(lambda h, w: ROUTED.apply(h, w, config, None)[0], h, w)[1], h, weights)
    copies = [x.dtype for x in jax.tree.leaves(stored) if x.size == 4 * h.size]
    assert copies and not [dtype for dtype in copies if dtype == jnp.float32]


def loss_and_gradient(config, mesh, params, tokens):
    """Mean square of the logits, its gradient, and the experts of each layer, on a mesh."""

    def loss(params, tokens):
        h, extras = hidden_states(params, tokens, config)
        return jnp.square(h * jnp.arange(h.shape[-1])).mean(), extras.routing[-1].experts

    with jax.set_mesh(make_mesh(mesh)):
        placed = place(params, param_shardings(param_specs(config), jax.sharding.get_mesh()))
        return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(placed, tokens))


def test_a_mesh_gives_the_same_decoder(tiny_config):
    """Tokens split over the data axis, hidden units of the experts over the model axis; recomputed blocks too."""
    config = experts_alone(tiny_config)
    params = random_params(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (4, 12))
    (one, experts), gradient = loss_and_gradient(config, "1x1", params, tokens)
    assert len(np.unique(experts)) > 4
    (other, chosen), split = loss_and_gradient(dataclasses.replace(config, remat="block"), "2x2", params, tokens)
    np.testing.assert_array_equal(chosen, experts)
    np.testing.assert_allclose(other, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(a).max(), 1)), gradient, split)


def test_decoding_equals_the_whole_sequence(tiny_config):
    """The sampler's log-probabilities, with a dense layer before the experts, equal those of the forward pass."""
    config = with_experts(tiny_config)
    params = jax.tree.map(lambda w: 4 * w if w.ndim > 2 else w, random_params(config))
    sampling = Sampling(max_tokens=4, temperature=1.0)
    with jax.set_mesh(make_mesh("2x2")):
        samples = sample(params, PROMPTS, config, jax.random.key(4), sampling=sampling, end_tokens=())
    whole = jax.jit(forward, static_argnums=2)
    samples = jax.device_get(samples)
    for prompt, tokens, logprobs in zip(PROMPTS, samples.tokens, samples.logprobs, strict=True):
        logits = np.asarray(whole(params, np.array([[*prompt, *tokens.tolist()]]), config)[0], np.float64)
        table = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[len(prompt) - 1 : -1]
        np.testing.assert_allclose(logprobs, table[np.arange(4), tokens], atol=1e-5)


def test_rows_and_hidden_units_need_not_divide_over_the_mesh():
    """Then each device computes all of them; the gradients are not multiplied."""
    config = config_of(dataclasses.replace(FAMILIES["mixtral"], width=7))
    weights, h = draw(config)
    h = np.concatenate([h, h[:1] + 1])

    def gradient():
        return jax.jit(jax.grad(lambda w, h: jnp.square(ROUTED.apply(h, w, config, None)[0]).sum(), argnums=(0, 1)))

    alone = gradient()(weights, h)
    with jax.set_mesh(make_mesh("2x2")):
        split = gradient()(weights, h)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max()), alone, split)
