"""The output head of decoding: a token from the final states."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.kernels.block_sums import block_sums
from r1jax.kernels.head import Head, applies, head_of
from r1jax.kernels.head_mosaic import TILE, logits_kernel
from r1jax.kernels.platform import choose
from r1jax.models.config import ModelConfig
from r1jax.models.precision import einsum_f32
from r1jax.sampling.decode import Weights
from r1jax.sampling.processors import Sampling, draw, draw_from_blocks, draws_in_shares, sample_token
from r1jax.sharding import constrain, model_devices, sum_over_model
from r1jax.traced import enabled, is_array


def next_token(
    weights: Weights, hidden: jax.Array, bits: jax.Array, config: ModelConfig, sampling: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sample_token of the logits of final states [S, D]."""
    head = head_of(config)
    if not _in_one_kernel(head, hidden, weights.output, sampling):
        logits = constrain(einsum_f32("sd,dv->sv", hidden, weights.output), "slots", "vocab")
        return token_of(logits, bits, config, sampling)
    if weights.output.shape[1] < config.vocab_size:
        return _draw_over_model(*_kernel_logits(weights, hidden, head, sampling), bits)
    return _of_first_device(kernel_token(weights, hidden, bits, head, sampling))


def token_of(
    logits: jax.Array, bits: jax.Array, config: ModelConfig, sampling: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sample_token of logits [S, V], or inside shard_map of a share [S, V / model_devices] of them on each device.

    The devices draw the same token, and the one that a single device draws: it is a function of numbers that they have
    exchanged, while sums over devices need not be equal in every bit on each of them.
    """
    kernels, devices = choose(config.kernels), model_devices()
    if logits.shape[1] == config.vocab_size:
        return _of_first_device(sample_token(logits, bits, sampling, kernels))
    if draws_in_shares(sampling, config.vocab_size, devices):
        z = logits / sampling.policy_temperature
        return _draw_over_model(z, block_sums(z, kernels), bits)
    return sample_token(jax.lax.all_gather(logits, "model", axis=1, tiled=True), bits, sampling, kernels)


def _draw_over_model(
    z: jax.Array, blocks: tuple[jax.Array, jax.Array], bits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sample_token without truncation of a share z [S, V / model_devices] of logits, divided by the temperature.

    blocks: their block_sums.
    """
    S, own = blocks[0].shape
    tops, sums = jax.lax.all_gather(jnp.stack(blocks), "model", axis=2, tiled=True)

    def read(block: jax.Array) -> jax.Array:
        place = block - jax.lax.axis_index("model") * own
        found = jnp.take_along_axis(z.reshape(S, own, -1), jnp.clip(place, 0, own - 1)[:, :, None], axis=1)[:, 0]
        return sum_over_model(jnp.where((place >= 0) & (place < own), found, 0))

    token, normaliser, logit = draw_from_blocks(tops, sums, bits, read)
    return token, logit - normaliser, logit - normaliser


def _of_first_device(drawn: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the first of model_devices has drawn."""
    if model_devices() == 1:
        return drawn
    first = jax.lax.axis_index("model") == 0
    token, policy, sampled = (sum_over_model(jnp.where(first, x, 0)) for x in drawn)
    return token, policy, sampled


def _in_one_kernel(head: Head, hidden: jax.Array, output: jax.Array, sampling: Sampling) -> bool:
    """True if one kernel computes logits and the sums of their blocks; few rows would leave its tiles half empty."""
    plain = enabled(sampling.temperature) and not is_array(sampling.temperature) and not sampling.truncates
    return plain and len(hidden) % TILE == 0 and applies(head, hidden, output)


def kernel_token(
    weights: Weights, hidden: jax.Array, bits: jax.Array, head: Head, sampling: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """next_token without truncation, with the kernel of logits and sums of their blocks."""
    z, blocks = _kernel_logits(weights, hidden, head, sampling)
    token, normaliser = draw(z, bits, blocks=blocks)
    policy = jnp.take_along_axis(z, token[:, None], axis=-1)[:, 0] - normaliser
    return token, policy, policy


def _kernel_logits(
    weights: Weights, hidden: jax.Array, head: Head, sampling: Sampling
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The logits divided by the temperature, and their block_sums."""
    by_columns = head == "columns"
    matrix = weights.params["embedding"] if by_columns else weights.output
    z, (tops, sums) = logits_kernel(hidden, matrix, by_columns, 1 / sampling.temperature)
    return z, (tops.T, sums.T)
