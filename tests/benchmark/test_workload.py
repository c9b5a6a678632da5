"""Whole RL steps of the benchmark and their checkpoints, on several meshes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.benchmark.mesh_estimate import abstract_state
from r1jax.benchmark.workload import Bench, WordTokenizer, Workload, frequencies, small_workload, with_natural_samples
from r1jax.checkpoints.load import read_config
from r1jax.checkpoints.native import Checkpoints
from r1jax.errors import UserError
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import hidden_states, param_specs, routing_of_layers, unembedding
from r1jax.rl import logprobs
from r1jax.rl.state import RLState
from r1jax.sharding import make_mesh, map_specs
from r1jax.training.loop import restore
from tests.benchmark.helpers import WORK, Parity
from tests.helpers.paths import FIXTURES


def test_a_model_can_be_a_checkpoint_or_its_first_layers():
    folder = FIXTURES / "deepseek_v3"
    assert Workload(model=str(folder)).model_config().latent == read_config(folder).latent
    work = Workload(model="moe-16b", layers=8)
    config, whole = work.model_config(), Workload(model="moe-16b").model_config()
    assert work.name == "moe-16b-8layers" and (config.num_layers, config.experts) == (8, whole.experts)
    two = Workload(model="deepseek-v3", layers=2).model_config()
    assert two == Workload(model="deepseek-v3-2layers").model_config() and two.experts.dense_layers == 1
    assert Workload(model="qwen2.5-0.5b", layers=3).model_config().num_layers == 3
    for layers in (-1, 28):
        with pytest.raises(UserError, match="has 27 layers"):
            Workload(model="moe-16b", layers=layers)


def test_the_small_workload_has_experts_if_the_model_has():
    works = [Workload(model=name, layers=2) for name in ("moe-16b", "qwen2.5-7b")]
    assert [small_workload(work).name for work in works] == ["tiny-moe", "tiny"]


def test_experts_are_used_alike_and_next_tokens_have_natural_frequencies():
    """In many layers whose attention would otherwise make all states of a layer alike."""
    shape = SHAPES["tiny-moe"]
    latent = dataclasses.replace(shape.latent, kv_rank=128)
    config = dataclasses.replace(shape, num_layers=12, hidden_size=128, num_heads=64, num_kv_heads=64, latent=latent)
    rng = np.random.default_rng(0)

    def draw(spec):
        noise = spec.scale * rng.normal(size=spec.shape)
        return jnp.asarray(noise if spec.init == "normal" else noise * 0 + (spec.init == "ones"), jnp.float32)

    params = with_natural_samples(map_specs(draw, param_specs(config)), config)
    tokens = np.array([WordTokenizer(config.vocab_size, 128).encode(text) for text in "ab"])

    @jax.jit
    def computed(params, tokens):
        states, extras = hidden_states(params, tokens, config)
        return jax.nn.log_softmax(states @ unembedding(params, config)), routing_of_layers(extras).experts

    logp, experts = computed(params, tokens)
    np.testing.assert_allclose(logp, np.broadcast_to(np.log(frequencies(512)), logp.shape), atol=0.1)
    for layer in experts:
        load = np.bincount(layer.ravel(), minlength=8) / (layer.size / 8)
        assert load.min() > 0.4 and load.max() < 2


def test_rollouts_need_no_moments():
    with jax.set_mesh(make_mesh("1x1")):
        bench = Bench(WORK, Parity(), training=False)
    assert bench.state.reference is None and not jax.tree.leaves(bench.state.policy.opt_state)


def test_the_chunk_of_the_head_reaches_updates_with_and_without_packing(monkeypatch):
    found = []

    def spy(*args):
        found.append(args[4])
        return token_logprobs(*args)

    monkeypatch.setattr(logprobs, "token_logprobs", spy)
    with jax.set_mesh(make_mesh("1x1")):
        bench = Bench(dataclasses.replace(WORK, logprob_chunk=77), Parity())
        limits, state = np.where(np.arange(16) < 2, 6, 1), bench.state
        for pack in (False, True):
            batch = bench.uneven_batch(limits, pack)
            assert (batch.packing is not None) == pack
            jax.eval_shape(lambda batch=batch: bench.update(batch))  # traced, not compiled
            bench.state = state
            assert found and set(found) == {77}
            found.clear()


def one_step(mesh, gather="auto"):
    """Metrics and state of a whole step on a mesh."""
    with jax.set_mesh(make_mesh(mesh)):
        bench = Bench(dataclasses.replace(WORK, gather=gather), Parity())
        return bench.step(0), bench.state


@pytest.fixture(scope="module")
def alone():
    return one_step("1x1")


def test_a_whole_step_of_two_passes_is_the_same_on_a_mesh_with_weights_gathered_by_layer(alone):
    """Compares samples, losses and gradients.

    tests/rl/test_update.py and tests/experiments/test_r1_zero_resume.py have meshes with the other way of gathering.
    """
    (want, before), (got, after) = alone, one_step("2x1", "layer")
    for name in ("loss", "kl", "entropy", "ratio_mean", "gradient_norm"):
        assert got[name] == pytest.approx(want[name], abs=1e-6), name
    assert want["gradient_norm"] > 1e-3
    for moment in ("mu", "nu"):  # after one update, the gradient and its square by constants
        a, b = (optax.tree_utils.tree_get(state.policy.opt_state, moment) for state in (before, after))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5 * float(np.abs(x).max()) + 1e-12)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-6), before.policy.params, after.policy.params)


def test_a_checkpoint_of_eight_devices_opens_on_other_meshes(alone, tmp_path):
    """Weights, moments and reference are restored bit by bit, with the shardings of each mesh."""
    _, state = alone

    def shapes(mesh):
        policy = abstract_state(WORK, make_mesh(mesh))
        return RLState(policy, policy.params)

    wide = shapes("8x1")
    spread = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, wide)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *spread.saved(), {"reward": 0.0})
        checkpoints.wait()
        for mesh in ("8x1", "4x2", "1x1"):
            target = shapes(mesh)
            found = restore(checkpoints, target)
            assert found is not None and found.reference is not None
            for name in ("policy", "reference"):
                leaves = [jax.tree.leaves(getattr(c, name)) for c in (state, found, target)]
                for x, y, shape in zip(*leaves, strict=True):
                    np.testing.assert_array_equal(x, y)
                    assert y.sharding.is_equivalent_to(shape.sharding, y.ndim)
