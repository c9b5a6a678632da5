"""Configs of published models, for benchmarks that need no weights."""

from __future__ import annotations

import dataclasses

from r1jax.errors import UserError
from r1jax.models.config import Experts, Latent, ModelConfig, RopeScaling, Yarn

SHAPES = {
    "tiny": ModelConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        context_length=4096,
    ),
    "tiny-moe": ModelConfig(  # the parts of DeepSeek-V3
        architecture="deepseek_v3",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=24,
        context_length=4096,
        rope_scaling=Yarn(factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0),
        tie_embeddings=False,
        latent=Latent(kv_rank=32, nope_dim=16, rope_dim=8, value_dim=16, query_rank=48),
        experts=Experts(
            number=8,
            active=2,
            width=32,
            shared_width=32,
            dense_layers=1,
            scores="sigmoid",
            scale=2.5,
            groups=4,
            active_groups=2,
            group_score="two highest",
            bias=True,
        ),
    ),
    "smollm2": ModelConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        context_length=8192,
        rope_theta=100_000.0,
        norm_eps=1e-5,
    ),
    "qwen2.5-0.5b": ModelConfig(
        architecture="qwen2",
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        context_length=32_768,
        rope_theta=1_000_000.0,
        attention_bias=True,
    ),
    "qwen2.5-1.5b": ModelConfig(
        architecture="qwen2",
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        head_dim=128,
        context_length=32_768,
        rope_theta=1_000_000.0,
        attention_bias=True,
    ),
    "qwen2.5-7b": ModelConfig(
        architecture="qwen2",
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        context_length=32_768,
        rope_theta=1_000_000.0,
        attention_bias=True,
        tie_embeddings=False,
    ),
    "llama-3.1-8b": ModelConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        context_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(),
        norm_eps=1e-5,
        tie_embeddings=False,
    ),
    "moe-16b": ModelConfig(  # DeepSeek-V2-Lite
        architecture="deepseek_v2",
        vocab_size=102_400,
        hidden_size=2048,
        intermediate_size=10_944,
        num_layers=27,
        num_heads=16,
        num_kv_heads=16,
        head_dim=192,
        context_length=163_840,
        rope_scaling=Yarn(factor=40.0, original_context=4096, mscale=0.707, mscale_all_dim=0.707),
        tie_embeddings=False,
        latent=Latent(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
        experts=Experts(number=64, active=6, width=1408, shared_width=2 * 1408, dense_layers=1, normalise=False),
    ),
    "deepseek-v3": ModelConfig(
        architecture="deepseek_v3",
        vocab_size=129_280,
        hidden_size=7168,
        intermediate_size=18_432,
        num_layers=61,
        num_heads=128,
        num_kv_heads=128,
        head_dim=192,
        context_length=163_840,
        rope_scaling=Yarn(factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0),
        tie_embeddings=False,
        latent=Latent(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536),
        experts=Experts(
            number=256,
            active=8,
            width=2048,
            shared_width=2048,
            dense_layers=3,
            scores="sigmoid",
            scale=2.5,
            groups=8,
            active_groups=4,
            group_score="two highest",
            bias=True,
        ),
    ),
}


def first_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """The config with its first ``layers`` layers.

    The leading dense layers are fewer if none with experts would be left. Raises UserError if there are not so many
    layers, or fewer than one.
    """
    if not 1 <= layers <= config.num_layers:
        raise UserError(f"layers={layers}: the model has {config.num_layers} layers, of which at least 1 is needed")
    own = config.experts
    if own is not None:
        own = dataclasses.replace(own, dense_layers=min(own.dense_layers, layers - 1))
    return dataclasses.replace(config, num_layers=layers, experts=own)


SHAPES["deepseek-v3-2layers"] = first_layers(SHAPES["deepseek-v3"], 2)
