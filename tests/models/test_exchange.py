"""Experts on meshes with an expert axis: tokens that move by each of the ways, and tokens that all devices have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.models import exchange, experts
from r1jax.models.experts import ROUTED, check_mesh, specs
from r1jax.sharding import make_mesh, param_shapes
from tests.models.test_experts import FAMILIES, config_of, draw

CONFIG = config_of(FAMILIES["deepseek_v3"])


def results(rows):
    """The square of the block's results for ``rows`` rows of five tokens, and its gradients, as a new program.

    The routing is replayed, with four different experts for two tokens of a row, and four times expert 0 for the
    others, as at the end of a text. Row seven is zero, and adds nothing to the gradients of the weights.
    """
    weights, _ = draw(CONFIG)
    h = jax.random.normal(jax.random.key(3), (8, 5, CONFIG.hidden_size)).at[7].set(0)[:rows]
    order = jax.random.uniform(jax.random.key(4), (8, 5, CONFIG.experts.number)).argsort(axis=-1)
    replay = order[..., : CONFIG.experts.active].at[:, 2:].set(0)[:rows]

    def loss(weights, h):
        return jnp.square(ROUTED.apply(h, weights, CONFIG, replay)[0]).sum()

    return jax.device_get(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(weights, h))


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got, want)


@pytest.fixture(scope="module")
def alone():
    return results(8)


def emulated(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name):
    """jax.lax.ragged_all_to_all, slice by slice, which XLA does not have on CPUs. Sizes that disagree give NaN."""
    own, devices = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    operands = jax.lax.all_gather(operand, axis_name)
    starts, sizes, places = (
        jax.lax.all_gather(x, axis_name)[:, own] for x in (input_offsets, send_sizes, output_offsets)
    )
    for source in range(devices):
        row = jnp.arange(len(output)) - places[source]
        taken = operands[source].at[starts[source] + row].get(mode="clip")
        taken = jnp.where(sizes[source] == recv_sizes[source], taken, jnp.nan)
        output = jnp.where(((row >= 0) & (row < recv_sizes[source]))[:, None], taken, output)
    return output


@pytest.mark.parametrize("name", ["8x1", "1x1x8"])
def test_a_mesh_gives_the_same_block(alone, name):
    with jax.set_mesh(make_mesh(name)):
        close(results(8), alone)


def test_a_ragged_exchange_in_parts_gives_the_same_block(alone, monkeypatch):
    """Only the tokens that a device needs move, and no more of them at one time than fit."""
    moved = []

    def ragged(operand, output, *rest, axis_name):
        moved.append((len(operand), len(output)))
        return emulated(operand, output, *rest, axis_name=axis_name)

    monkeypatch.setattr(jax.lax, "ragged_all_to_all", ragged)
    monkeypatch.setattr(experts, "is_ragged", lambda devices, active: True)
    monkeypatch.setattr(experts, "ROOM", 4 * 16 * 4 * 4 * 2)  # float32 of 16, for 4 experts of 2 tokens on 4 devices
    with jax.set_mesh(make_mesh("1x2x4")):
        close(results(8), alone)
    assert set(moved) == {(2 * 4, 4 * 2), (4 * 2, 2 * 4)}  # two of the ten tokens of a device at a time


def test_tokens_that_do_not_split_over_the_axis_are_on_all_its_devices(alone, monkeypatch):
    monkeypatch.setattr(experts, "spread", None)
    loss, (weights, h) = alone
    with jax.set_mesh(make_mesh("2x2x2")):
        close(results(7), (loss, (weights, h[:7])))


def test_a_ragged_exchange_is_for_many_devices_on_accelerators(monkeypatch):
    assert not exchange.is_ragged(64, 8)  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    # 8 of 64 devices at most get a token of DeepSeek-V3; with 2 devices, nearly all tokens go to both.
    assert exchange.is_ragged(64, 8) and not exchange.is_ragged(2, 8)


def test_expert_axes_that_do_not_suit_the_model_are_refused(tiny_config):
    check_mesh("2x2x8", CONFIG)
    check_mesh("8x1", CONFIG, tiny_config)
    check_mesh("1x1x2", tiny_config, CONFIG)  # a dense student of a teacher with experts
    with pytest.raises(UserError, match=r"^16 experts do not split over the 3 devices.* expert axis divides 16$"):
        check_mesh("expert:3", CONFIG)
    with pytest.raises(UserError, match=r"no experts for an expert axis of 4: .* data axis, --mesh=8x2$"):
        check_mesh("2x2x4", tiny_config)
    weights = param_shapes(specs(CONFIG), "float32")
    with jax.set_mesh(make_mesh("1x1x3")), pytest.raises(UserError, match="16 experts do not split"):
        jax.eval_shape(lambda w: ROUTED.apply(jnp.ones((3, 16)), w, CONFIG, None), weights)
