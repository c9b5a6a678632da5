"""A model: the contents of every checkpoint."""

from __future__ import annotations

import dataclasses

import jax

from r1jax.models.config import ModelConfig
from r1jax.sharding import Params
from r1jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A decoder with its config, parameters and tokenizer."""

    config: ModelConfig
    params: Params  # tree of r1jax.models.transformer.param_specs(config)
    tokenizer: Tokenizer

    def __repr__(self) -> str:
        """Three lines: parameters, shapes and tokenizer, without the arrays."""
        config, tokenizer, weights = self.config, self.tokenizer, jax.tree.leaves(self.params)
        dtypes = ", ".join(sorted({str(weight.dtype) for weight in weights})) or "no type"
        kind = "reward model" if config.head == "scalar" else "language model"
        template = "a" if tokenizer.chat_template else "no"
        keys = f"{config.num_kv_heads} of keys and values"
        if (latent := config.latent) is not None:
            keys = f"keys and values from {latent.kv_rank} + {latent.rope_dim} numbers"
        return (
            f"Model: {config.architecture} {kind}, {sum(weight.size for weight in weights):,} parameters in {dtypes}\n"
            f"  {config.num_layers} layers of width {config.hidden_size:,}, {config.num_heads} heads of "
            f"{config.head_dim}, {keys}, feed-forward {config.intermediate_size:,}, "
            f"vocabulary {config.vocab_size:,}, context {config.context_length:,}\n"
            f"  {type(tokenizer).__name__}: {tokenizer.vocab_size:,} ids, {template} chat template, "
            f"end tokens {', '.join(map(str, tokenizer.eos_ids)) or 'none'}"
        )
