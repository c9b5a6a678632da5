"""Checkpoints that learned models of an algorithm start from: paths, checks and weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.algorithms.interface import LearnedModel
from r1jax.checkpoints.load import read_config, read_tokenizer, resolve
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.models.config import COMPUTE_OPTIONS, ModelConfig
from r1jax.pipeline.stage import Inputs
from r1jax.recipe.loading import load_model
from r1jax.rl.config import RLConfig, check_parts
from r1jax.sharding import Params
from r1jax.tokenizer import Tokenizer
from r1jax.tokenizer.base import same_vocabulary

# Fields of a config that a learned model need not share with the policy.
_OWN = {*COMPUTE_OPTIONS, "head", "tie_embeddings", "context_length", "mtp_layers"}


def start_inputs(rl: RLConfig) -> dict[str, Path]:
    """Name -> checkpoint of each learned model that does not start from the policy, as inputs of a stage.

    Raises UserError if a path is no checkpoint.
    """
    return {name: _checkpoint(name, one) for name, one in rl.algorithm.learned.items() if one.start}


def _checkpoint(name: str, model: LearnedModel) -> Path:
    """The path of the checkpoint that a learned model starts from; raises UserError if there is none."""
    try:
        return resolve(model.start)[0]
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def check_starts(rl: RLConfig, policy: ModelConfig, tokenizer: Tokenizer | None) -> None:
    """Raises UserError for settings that do not fit the policy, or a checkpoint that no learned model can start from.

    Reads no weights.

    tokenizer: of the policy. None: it does not exist yet and is not compared.
    """
    check_parts(rl, policy)
    for name, one in rl.algorithm.learned.items():
        if not one.start:
            continue
        at, path = f"{name}={one.start}", _checkpoint(name, one)
        found = read_config(path)
        scalar = one.head == "value"
        if scalar != (found.head == "scalar"):
            raise UserError(
                f"{at} is a language model, which has no value head: give the folder of a reward model"
                if scalar
                else f"{at} is a reward model, which has no tokens: give the folder of a language model"
            )
        # The vocabulary of a policy that does not exist yet may become smaller than its config allows.
        may_fit = tokenizer is None and found.vocab_size <= policy.vocab_size
        skipped = {*_OWN, "vocab_size"} if may_fit else _OWN
        for field in dataclasses.fields(ModelConfig):
            own, other = getattr(policy, field.name), getattr(found, field.name)
            if field.name not in skipped and own != other:
                raise UserError(
                    f"{at} has {field.name.replace('_', ' ')} {other} and the policy {own}: give a model of the "
                    "policy's architecture and tokenizer"
                )
        if tokenizer is not None and not same_vocabulary(read_tokenizer(path), tokenizer):
            raise UserError(f"{at} has another vocabulary than the policy: give a model with the policy's tokenizer")


def load_starts(rl: RLConfig, policy: Model, inputs: Inputs) -> dict[str, Params]:
    """The weights that learned models start from, by name, if not from the policy's; ``inputs`` has their checkpoints.

    Raises UserError as check_starts does.
    """
    check_starts(rl, policy.config, policy.tokenizer)
    return {name: load_model(inputs[name], policy.config, rl.param_dtype).params for name in start_inputs(rl)}
