"""What every checkpoint holds."""

from __future__ import annotations

import dataclasses

from r1jax.models.config import ModelConfig
from r1jax.sharding import Params
from r1jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A decoder that can be run, trained and saved: its config, its parameters and its tokenizer."""

    config: ModelConfig
    params: Params  # tree of r1jax.models.transformer.param_specs(config)
    tokenizer: Tokenizer
