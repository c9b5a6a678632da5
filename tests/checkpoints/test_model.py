"""A model as it is printed."""

from __future__ import annotations

import r1jax
from r1jax.checkpoints.huggingface import load_huggingface
from tests.helpers.latent import LATENT
from tests.helpers.paths import FIXTURES


def test_a_model_is_printed_in_a_few_lines() -> None:
    lines = repr(r1jax.load(FIXTURES / "qwen2", dtype="bfloat16")).splitlines()
    # 128 * 32 for the embedding, the last norm, and a block: norms, query and output, key and value, biases, the MLP.
    block = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 32 + 2 * 16 + 3 * 32 * 64
    assert lines[0] == f"Model: qwen2 language model, {128 * 32 + 32 + 2 * block:,} parameters in bfloat16"
    assert "2 layers of width 32, 4 heads of 8, 2 of keys and values" in lines[1]
    assert "128 ids, a chat template, end tokens 1" in lines[2] and len(lines) == 3
    reward = repr(load_huggingface(FIXTURES / "reward"))
    assert reward.startswith("Model: qwen2 reward model, ") and len(reward.splitlines()) == 3


def test_a_model_with_latent_attention_names_the_numbers_of_its_cache() -> None:
    tokenizer = load_huggingface(FIXTURES / "qwen2").tokenizer
    line = repr(r1jax.Model(LATENT, {}, tokenizer)).splitlines()[1]
    assert "8 heads of 10, keys and values from 12 + 4 numbers, feed-forward 64" in line
