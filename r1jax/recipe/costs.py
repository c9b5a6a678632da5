"""Estimated costs of a stage for the plan: steps, largest number of tokens, and memory per device."""

from __future__ import annotations

from typing import Any

from r1jax.models.config import ModelConfig
from r1jax.models.cost import cache_entry_bytes, logits_bytes, training_bytes
from r1jax.recipe.cold_start import ColdStartSettings
from r1jax.recipe.distillation import MatchSettings
from r1jax.recipe.judged_samples import SamplesSettings
from r1jax.recipe.pretraining import PretrainSettings
from r1jax.recipe.reasoning_rl import ReasoningRLSettings
from r1jax.recipe.rejection_sampling import RejectionSettings
from r1jax.recipe.reward_models import RewardModelSettings
from r1jax.recipe.sft import SFTSettings
from r1jax.sharding import parse_mesh


def costs(settings: Any, model: ModelConfig, mesh: str) -> dict[str, str]:
    """Column -> text for the steps, tokens and memory of a stage; the memory leaves out activations.

    model: the architecture that the stage trains or samples.
    """

    def memory(dtype: str, chunk: int, copies: int = 0, cached: int = 0) -> str:
        devices = parse_mesh(mesh)
        size = 2 if dtype == "bfloat16" else 4
        # The model axis splits the cache by heads, which share that of latent attention.
        whole = cached * cache_entry_bytes(model, size) / devices.rows if model.latent else 0
        split = training_bytes(model, size, copies, cached) / devices.rows - whole + logits_bytes(model, chunk)
        return f"{(split / devices.model + whole) / 2**30:.2f} GiB"

    match settings:
        case PretrainSettings(pretrain=config):
            tokens = config.steps * config.batch * config.width
            return _steps(config.steps, tokens) | {"memory": memory(config.param_dtype, 2048)}
        case RewardModelSettings(reward_model=config):
            return {"steps": f"{config.epochs} epochs", "memory": memory(config.param_dtype, 0)}
        case ReasoningRLSettings(rl=config):
            longest = config.sequences * settings.sampling.max_tokens
            # A learned model has weights and two moments; its gradient is in memory when the policy's is not.
            copies = int(config.algorithm.needs_reference) + 3 * len(config.algorithm.learned)
            needed = memory(config.param_dtype, config.logprob_chunk, copies, longest)
            return _steps(config.steps, config.steps * config.algorithm.attempts * longest) | {"memory": needed}
        case ColdStartSettings() | RejectionSettings():
            return _sampled(settings.samples)
        case SFTSettings(sft=config):
            return {"steps": f"{config.epochs} epochs", "memory": memory(config.param_dtype, config.logprob_chunk)}
        case MatchSettings(match=config):
            tokens = config.steps * config.sequences * settings.sampling.max_tokens
            return _steps(config.steps, tokens)
    return {}


def _steps(steps: int | str, tokens: int) -> dict[str, str]:
    return {"steps": f"{steps}", "tokens": f"{tokens:,} at most"}


def _sampled(samples: SamplesSettings | None) -> dict[str, str]:
    count = samples.select.problems * samples.select.samples if samples else 0
    tokens = count * samples.sampling.max_tokens if samples else 0
    return _steps(f"{count} samples", tokens)
