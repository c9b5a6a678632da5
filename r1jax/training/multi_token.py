"""The loss of multi-token prediction (arXiv 2412.19437, section 2.2), an addition to the loss of the next token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.algorithms.logprobs import token_predictions
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.mtp import ahead, mtp_states
from r1jax.models.transformer import unembedding
from r1jax.sharding import Params
from r1jax.training.balance import expert_load
from r1jax.training.metrics import Metrics
from r1jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class MultiTokenConfig(OptimizerConfig):
    """The optimiser of a language model, which may have layers of multi-token prediction."""

    mtp_weight: float = 0.0
    """Weight of the loss of multi-token prediction; a weight above 0 needs a model with such layers. DeepSeek-V3 is
    pretrained with 0.3, and with 0.1 in the last third (arXiv 2412.19437). In reinforcement learning these layers learn
    to predict the samples, and the rest of the model does not learn from this loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mtp_weight < 0:
            raise UserError(f"mtp-weight {self.mtp_weight} must be at least 0")


def check_mtp_weight(weight: float, model: ModelConfig, flag: str) -> None:
    """Raises UserError if the loss has a weight and the model no layers for it; ``flag`` sets the weight."""
    if weight and not model.mtp_layers:
        raise UserError(
            f"{flag}={weight:g}: the model has no layers of multi-token prediction: leave it out, or choose a model "
            "with such layers"
        )


def mtp_losses(
    params: Params,
    states: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    config: ModelConfig,
    chunk: int,
    segments: jax.Array | None = None,
    temperature: float = 1.0,
    first: int = 0,
) -> tuple[jax.Array, Metrics, jax.Array | None]:
    """The mean over the layers k of multi-token prediction of -log p_k(tokens[:, t + 1]) at each position t.

    Layer k predicts a token from the state k + 1 places before it, which must be in the same text: it gives 0 where the
    token is outside the mask, or one of the first k + 1 of its text. The sum over the mask, divided by the number of
    tokens in the mask, is (1 / D) sum_k L_k of the paper, whose L_k divides by the length of the text, too. The balance
    loss of experts does not include the experts of these layers.

    Args:
      params: the weights, in config.dtype.
      states: [B, T, D], the final states of the decoder at tokens[:, :-1].
      tokens: [B, T + 1] int32.
      mask: [B, T] bool, the tokens of tokens[:, 1:] to predict, without the first token of a text.
      config: the model.
      chunk, temperature: as in token_logprobs.
      segments: [B, T] int32, the text of each of tokens[:, :-1]; None: a row is one text.
      first: the mask is false before this position in all rows.

    Returns:
      Losses [B, T] float32 in nats; the metrics "mtp_loss", in nats per prediction, and "mtp_accuracy", the share of
      predictions whose most likely token is the right one; and the load [D, E] of the layers, as balance.expert_load.
    """
    T = mask.shape[1]
    found, extras = mtp_states(params, states, tokens[:, 1:], config, segments)
    output = unembedding(params, config)
    total, sums, counted, loads = jnp.zeros(mask.shape), jnp.zeros(2), jnp.zeros(()), []
    for k, h in enumerate(found, 1):
        valid = mask & (jnp.arange(T) >= k)
        if segments is not None:
            valid &= segments == _later(segments, k)
        logp, best = token_predictions(_later(h, k)[:, first:], output, tokens[:, 1 + first :], temperature, chunk)
        logp, best = (jnp.where(valid, jnp.pad(x, ((0, 0), (first, 0))), 0.0) for x in (logp, best))
        total -= logp / len(found)
        sums += jnp.stack([-logp.sum(), best.sum()])
        counted += valid.sum()
        loads.append(expert_load(_layer(extras, k - 1), ahead(valid, k)))
    loss, right = jax.lax.stop_gradient(sums)
    metrics: Metrics = {"mtp_loss": (loss, counted), "mtp_accuracy": (right, counted)}
    return total, metrics, None if loads[0] is None else jnp.concatenate(loads)


def join_loads(decoder: jax.Array | None, mtp: jax.Array | None) -> jax.Array | None:
    """The load of the experts of all layers, those of multi-token prediction last."""
    return decoder if decoder is None or mtp is None else jnp.concatenate([decoder, mtp])


def _later(x: jax.Array, k: int) -> jax.Array:
    """x [B, T, ...] moved to k positions later; zeros at the first k positions."""
    T = x.shape[1]
    return jnp.pad(x, [(0, 0), (k, 0), *[(0, 0)] * (x.ndim - 2)])[:, :T]


def _layer(extras: Any, k: int) -> Any:
    return jax.tree.map(lambda x: x[k : k + 1], extras)
