"""A tiny model with a tokenizer of digits, tags and signs, and problems for it."""

import jax

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.recipe.pretraining import train_tokenizer
from r1jax.sharding import init_params

TOKENIZER = train_tokenizer(["3 + 4 = 7. 10 - 2 = 8. 5 + 6", "9"] * 4, 28)
# The prompt answers already: random completions without a tag keep its answer and its format.
TEMPLATE = Template("answered", "{question}", prefill="<think></think><answer>3</answer>", prose=True)
_ALL = tuple(Problem(f"{a} + {b}", str(a + b), kind) for a in range(4) for b, kind in ((0, "plain"), (1, "more")))
TRAIN, HELD_OUT = _ALL[:-2], _ALL[-2:]
CONFIG = ModelConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    context_length=64,
)


def tiny_model():
    """Random weights, which training frees."""
    return Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(0)), TOKENIZER)
