"""The queue of a request: its arguments, checked and as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import Queue


def make_queue(
    prompts: Sequence[Sequence[int]],
    config: ModelConfig,
    sampling: Sampling,
    samples_per_prompt: int = 1,
    limits: Sequence[int] | np.ndarray | None = None,
    sequence_ids: Sequence[int] | np.ndarray | None = None,
    prompt_width: int = 0,
) -> Queue:
    """Checks the arguments of sample and converts them to arrays; raises UserError as sample does."""
    lengths = np.array([len(p) for p in prompts], np.int32)
    if not len(lengths) or not lengths.min():
        raise UserError("every prompt needs at least one token")
    width = max(prompt_width, int(lengths.max()))
    N = len(prompts) * samples_per_prompt
    limits = np.full(N, sampling.max_tokens) if limits is None else np.asarray(limits)
    ids = np.arange(N) if sequence_ids is None else np.asarray(sequence_ids)
    if limits.shape != (N,) or ids.shape != (N,):
        raise UserError(
            f"limits {limits.shape} and sequence_ids {ids.shape} must each have one entry for {N} sequences"
        )
    if limits.min() < 1 or limits.max() > sampling.max_tokens:
        raise UserError(f"limits range from {limits.min()} to {limits.max()}, outside 1..{sampling.max_tokens}")
    total = int((np.repeat(lengths, samples_per_prompt) + limits).max())
    if total > config.context_length:
        raise UserError(
            f"a prompt of {lengths.max()} tokens and {limits.max()} new ones are {total}, "
            f"but the model's context is {config.context_length}: lower max-tokens or shorten the prompt"
        )
    return Queue(
        prompts=jnp.asarray(padded_prompts(prompts, width)),
        prompt_lengths=jnp.asarray(lengths),
        prompt_of=jnp.asarray(np.repeat(np.arange(len(prompts)), samples_per_prompt), jnp.int32),
        limits=jnp.asarray(limits, jnp.int32),
        ids=jnp.asarray(ids, jnp.int32),
    )


def padded_prompts(prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Token ids of P prompts, padded with zeros on the right: [P, width] int32."""
    rows = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows
