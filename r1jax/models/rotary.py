"""Rotary position embeddings that rotate the two halves of a head, as in Hugging Face checkpoints."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import ModelConfig, RopeScaling, Yarn


def frequencies(config: ModelConfig) -> np.ndarray:
    """Angular frequency of each pair, theta^(-2i/K), scaled according to config.rope_scaling: [K/2] float32."""
    half = config.rotary_dim // 2
    freq = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if (scaling := config.rope_scaling) is not None:
        by_index = isinstance(scaling, Yarn)
        keep = _kept_by_index(config, scaling) if by_index else _kept_by_wavelength(freq, scaling)
        freq = freq * (keep + (1 - keep) / scaling.factor)
    return freq.astype(np.float32)


def _kept_by_wavelength(freq: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Share of each frequency that is not divided by the factor (arXiv 2407.21783): [K/2].

    It is 0 for wavelengths longer than original_context / low_freq_factor and 1 for those shorter than
    original_context / high_freq_factor; between, it is linear in the number of turns.
    """
    turns = scaling.original_context * freq / (2 * math.pi)  # rotations over the original context
    span = scaling.high_freq_factor - scaling.low_freq_factor
    return np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)


def _kept_by_index(config: ModelConfig, scaling: Yarn) -> np.ndarray:
    """Share of each frequency that is not divided by the factor (arXiv 2309.00071): [K/2].

    It is 1 up to the pair that turns beta_fast times over the original context and 0 from the one that turns beta_slow
    times; between, it is linear in the index of the pair.
    """
    size = config.rotary_dim

    def index(turns: float) -> float:  # solves original_context * theta^(-2i/K) = 2 pi turns for i
        return size * math.log(scaling.original_context / (2 * math.pi * turns)) / (2 * math.log(config.rope_theta))

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    span = (last - first) or 1e-3  # a step in place of a ramp without length
    return 1 - np.clip((np.arange(size // 2) - first) / span, 0.0, 1.0)


def _temperature(scaling: Yarn, mscale: float) -> float:
    return 1 + 0.1 * mscale * math.log(scaling.factor)


def table_factor(config: ModelConfig) -> float:
    """Factor of YaRN on cosine and sine, and so on the rotated part of queries and keys; 1 without YaRN."""
    scaling = config.rope_scaling
    if not isinstance(scaling, Yarn):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _temperature(scaling, scaling.mscale) / _temperature(scaling, scaling.mscale_all_dim)
    return _temperature(scaling, 1.0)


def score_factor(config: ModelConfig) -> float:
    """Factor of YaRN on the scores of latent attention, m(mscale_all_dim)^2; 1 without YaRN.

    Architectures without latent attention have only the factor on the tables.
    """
    scaling = config.rope_scaling
    return _temperature(scaling, scaling.mscale_all_dim) ** 2 if isinstance(scaling, Yarn) else 1.0


def tables(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the angles of positions [...], times table_factor: [..., K/2] float32 each."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    factor = table_factor(config)
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (x_i, x_{i+K/2}) of each head [..., heads, K] by tables [..., K/2], in float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
