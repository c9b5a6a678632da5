"""The cross-entropy of the next token: the update of pretraining and fine-tuning."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.kernels.head import head_of
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import hidden_states, prepare, unembedding
from r1jax.sharding import Params
from r1jax.training.balance import OFF, Balance, expert_load, with_balance_loss
from r1jax.training.gradients import accumulate
from r1jax.training.metrics import Metrics
from r1jax.training.multi_token import join_loads, mtp_losses
from r1jax.training.state import TrainState, apply_gradients


def cross_entropy_sums(
    params: Params,
    batch: dict[str, jax.Array],
    config: ModelConfig,
    chunk: int,
    balance: Balance = OFF,
    mtp_weight: float = 0.0,
) -> tuple[jax.Array, tuple[jax.Array, tuple[Metrics, jax.Array | None]]]:
    """Sum of -log p(token) over the tokens of tokens[:, 1:] in the mask; their count, metrics and load of experts.

    The sum includes the balance loss of experts and the loss of multi-token prediction (mtp_losses), if they have a
    weight; the metric "loss" does not. The load is that of balance.expert_load.

    batch: "tokens" [B, T + 1] int32, "mask" [B, T] bool and, if rows hold several texts, "segments" [B, T] int32, the
    text of each of tokens[:, :-1]. The first token of a text must not be in the mask, since nothing precedes it.
    """
    tokens, mask, segments = batch["tokens"], batch["mask"], batch.get("segments")
    h, extras = hidden_states(params, tokens[:, :-1], config, segments=segments)
    logp, _ = token_logprobs(h, unembedding(params, config), tokens[:, 1:], chunk=chunk, head=head_of(config))
    loss = -jnp.where(mask, logp, 0.0).sum()
    count = mask.sum().astype(jnp.float32)
    metrics: Metrics = {"loss": (jax.lax.stop_gradient(loss), count)}
    balanced, found = with_balance_loss(-logp, extras, mask, config, balance)
    if found:
        loss = jnp.where(mask, balanced, 0.0).sum()
    load = expert_load(extras, mask)
    if config.mtp_layers and mtp_weight:
        further, others, mtp_load = mtp_losses(params, h, tokens, mask, config, chunk, segments)
        loss, found, load = loss + mtp_weight * further.sum(), found | others, join_loads(load, mtp_load)
    return loss, (count, (metrics | found, load))


@partial(
    jax.jit,
    static_argnames=("optimizer", "config", "microbatches", "chunk", "balance", "mtp_weight"),
    donate_argnames="state",
)
def language_model_update(
    state: TrainState,
    batch: dict[str, jax.Array],
    optimizer: optax.GradientTransformation,
    config: ModelConfig,
    microbatches: int = 1,
    chunk: int = 2048,
    balance: Balance = OFF,
    mtp_weight: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """The state after one update on ``batch``; the loss in nats per token, and the metrics of apply_gradients."""

    def part_sums(params: Params, part: Any) -> Any:
        return cross_entropy_sums(params, part, config, chunk, balance, mtp_weight)

    (grads, count), (found,) = accumulate(part_sums, prepare(state.params, config), batch, microbatches, config)
    sums, load = jax.tree.map(lambda x: x.sum(axis=0), found)
    state, metrics = apply_gradients(state, grads, count, optimizer, config, load, balance.bias_speed)
    return state, sums | metrics
