"""Shapes of published models, for runs that need no weights."""

from __future__ import annotations

from r1jax.models.config import ModelConfig, RopeScaling

SHAPES = {
    "tiny": ModelConfig(
        vocab_size=512, hidden_size=64, intermediate_size=192, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
        context_length=4096,
    ),
    "smollm2": ModelConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3,
        head_dim=64, context_length=8192, rope_theta=100_000.0, norm_eps=1e-5,
    ),
    "qwen2.5-0.5b": ModelConfig(
        architecture="qwen2", vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14,
        num_kv_heads=2, head_dim=64, context_length=32_768, rope_theta=1_000_000.0, attention_bias=True,
    ),
    "qwen2.5-1.5b": ModelConfig(
        architecture="qwen2", vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_layers=28,
        num_heads=12, num_kv_heads=2, head_dim=128, context_length=32_768, rope_theta=1_000_000.0, attention_bias=True,
    ),
    "qwen2.5-7b": ModelConfig(
        architecture="qwen2", vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_layers=28,
        num_heads=28, num_kv_heads=4, head_dim=128, context_length=32_768, rope_theta=1_000_000.0, attention_bias=True,
        tie_embeddings=False,
    ),
    "llama-3.1-8b": ModelConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_layers=32, num_heads=32, num_kv_heads=8,
        head_dim=128, context_length=131_072, rope_theta=500_000.0, rope_scaling=RopeScaling(), norm_eps=1e-5,
        tie_embeddings=False,
    ),
}  # fmt: skip
