"""The built-in rewards inside a program: from token ids to the values of r1jax.rewards.rules.

They are equal to those of the host except for the texts that r1jax.ablation.answers lists, and for tokens that are
parts of one character beyond ASCII: such a character is no white space, sign or punctuation here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from r1jax.ablation.answers import WIDTH, Expected, correct
from r1jax.ablation.text import TokenCodes, answers, completion_codes, well_formed
from r1jax.data.text.template import TEMPLATES, Template
from r1jax.errors import UserError
from r1jax.rewards.config import RewardSpec
from r1jax.sampling.slots import Samples

# (text [B, C], samples, expected answers of the B samples, template) -> [B] float32
_Rule = Callable[[jax.Array, Samples, Expected, Template], jax.Array]


def _accuracy(codes: jax.Array, samples: Samples, expected: Expected, template: Template) -> jax.Array:
    return correct(*answers(codes, WIDTH), expected).astype(jnp.float32)


def _format(codes: jax.Array, samples: Samples, expected: Expected, template: Template) -> jax.Array:
    return well_formed(codes, template.prose).astype(jnp.float32)


def _length(codes: jax.Array, samples: Samples, expected: Expected, template: Template) -> jax.Array:
    return -samples.lengths.astype(jnp.float32) / samples.tokens.shape[1]


RULES: dict[str, _Rule] = {"accuracy": _accuracy, "format": _format, "length": _length}


def check_rewards(rewards: Sequence[RewardSpec], template: Template) -> None:
    """Raises UserError for a reward or a template that has no form inside a program."""
    for reward in rewards:
        if reward.file or reward.name not in RULES:
            raise UserError(
                f"reward {reward} has no form in an ablation's program: choose from {', '.join(RULES)}, or train with "
                "the ordinary loop"
            )
    if not template.tags:
        names = ", ".join(one.name for one in TEMPLATES.values() if one.tags)
        raise UserError(f"template {template.name} has no form in an ablation's program: choose from {names}")


def score(
    samples: Samples, expected: Expected, table: TokenCodes, template: Template, names: Sequence[str]
) -> jax.Array:
    """The rewards of B samples by name, without weights: [B, R] float32. expected: of each sample's problem."""
    codes = completion_codes(samples.tokens, samples.lengths, table)
    return jnp.stack([RULES[name](codes, samples, expected, template) for name in names], axis=1)
