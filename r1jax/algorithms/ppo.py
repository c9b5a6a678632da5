"""PPO, proximal policy optimisation (arXiv 1707.06347), with a critic and generalised advantage estimation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from r1jax.algorithms.gae import generalised_advantages, token_rewards, whiten
from r1jax.algorithms.grpo import GRPO, ONE_UPDATE
from r1jax.algorithms.interface import LearnedModel, NoEffect, PolicyTokens, RolloutTokens, Values
from r1jax.algorithms.kl import k3_kl
from r1jax.algorithms.reductions import Aggregate, reduce_tokens
from r1jax.algorithms.rollout_terms import RolloutTerms
from r1jax.algorithms.values import clipped_value_loss, explained_variance_terms
from r1jax.errors import UserError
from r1jax.traced import enabled

POLICY = "policy"  # the value of --rl.critic for a critic that starts from the policy
_CRITIC = "critic"


@dataclasses.dataclass(frozen=True)
class PPO(RolloutTerms):
    """Policy, per token: -min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi / pi_old, A by gae.py. Critic: values.py.

    The reward of a completion belongs to its last token. The KL divergence from the reference is a term of the reward
    of each token, r_t - beta log(pi / pi_ref) (arXiv 1909.08593, eq. 2), or of the loss, as in GRPO. There is no group
    baseline, so groups of 1 are enough.

    The defaults: clip of 0.2 from arXiv 1707.06347, table 1; value clip of 0.2 from the program of arXiv 1909.08593;
    gamma = lambda = 1, no KL, whitened advantages and a critic with five times the policy's learning rate (5e-6 to
    1e-6) from Open-Reasoner-Zero (arXiv 2503.24290), which trains on rewards by rule as R1-Zero does. Learning from
    preferences is mostly done with lambda = 0.95 (arXiv 2009.01325). Policy and critic have no weights in common, so
    there is no coefficient of the value loss.
    """

    eps_low: float = 0.2
    """The ratio is clipped below 1 - eps-low; a value of 1 or more removes the lower bound. Like eps-high and
    value-clip, it has an effect only with several updates per rollout."""
    eps_high: float = 0.2
    """The ratio is clipped above 1 + eps-high."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference; with 0 there is no reference."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Subtract the log-ratio to the reference from the reward of each token, or add the k3 estimate to the loss."""
    entropy: float = 0.0
    """Weight of an entropy bonus."""
    aggregate: Aggregate = "token"
    """Mean of the policy's loss: token, sequence (each sequence first) or constant (per max-tokens)."""
    importance_cap: float = 0.0
    """Cap of truncated importance sampling between sampler and trainer; 0 turns it off."""
    gamma: float = 1.0
    """Discount of later rewards per token."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation: 0 relies on the critic's next value, 1 on the whole return."""
    whiten: bool = True
    """Shift and scale the advantages of a rollout to mean 0 and standard deviation 1 over all tokens."""
    value_clip: float = 0.2
    """The value of a token moves at most this far from its value before the updates of a rollout; 0 turns it off."""
    critic: str = POLICY
    """What the critic starts from: policy, or the folder of a reward model of the same architecture and tokenizer."""
    critic_learning_rate: float | None = None
    """Peak learning rate of the critic; None is five times the policy's."""
    critic_warmup_steps: int = 0
    """Optimiser updates over which the critic's learning rate rises to its peak."""
    critic_schedule: Literal["constant", "linear", "cosine"] | None = None
    """Learning rate of the critic after the warm-up; None is the policy's schedule."""
    critic_weight_decay: float | None = None
    """Decoupled weight decay of the critic; None is the policy's."""
    critic_max_grad_norm: float | None = None
    """Global norm that the critic's gradients are clipped to, and 0 turns clipping off; None is the policy's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value > 1:
                raise UserError(f"{name.replace('_', '-')}={value} must be at most 1")

    @property
    def smallest_group(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """1, or 2 if groups without spread are dropped: a group of 1 has none."""
        return 2 if self.drop_equal_groups else 1

    @property
    def needs_reference(self) -> bool:
        """True if there is a KL term."""
        return enabled(self.beta)

    @property
    def learned(self) -> Mapping[str, LearnedModel]:
        """The critic."""
        critic = LearnedModel(
            head="value",
            learning_rate=self.critic_learning_rate,
            learning_rate_factor=5.0,
            warmup_steps=self.critic_warmup_steps,
            schedule=self.critic_schedule,
            weight_decay=self.critic_weight_decay,
            max_grad_norm=self.critic_max_grad_norm,
            start="" if self.critic == POLICY else self.critic,
        )
        return {_CRITIC: critic}

    def without_effect(self, updates: int) -> Sequence[NoEffect]:
        """The clips, if nothing has changed when they are applied, and the place of an absent KL term."""
        clips = (NoEffect(("eps_low", "eps_high", "value_clip"), ONE_UPDATE),) if updates == 1 else ()
        kl = () if self.needs_reference else (NoEffect(("kl_in",), "without a reference: set rl.beta"),)
        return (*clips, *kl, *super().without_effect(updates))

    def prepare(self, rollout: RolloutTokens) -> tuple[jax.Array, dict[str, Any]]:
        """Advantages [B, T]; the critic's values before the updates and the returns, as its targets.

        The KL term of the rewards is log(pi / pi_ref) of the policy that sampled (the k1 estimate).
        """
        mask, values = rollout.mask, rollout.outputs[_CRITIC]
        divergence = rollout.policy_logprobs - rollout.reference_logprobs
        weight = self.beta if self.kl_in == "reward" else 0.0
        rewards = token_rewards(rollout.rewards, mask) - jnp.where(mask, weight * divergence, 0.0)
        advantages, returns = generalised_advantages(rewards, values, mask, self.gamma, self.gae_lambda)
        advantages = jnp.where(self.whiten, whiten(advantages, mask), advantages)
        explained = explained_variance_terms(values, returns, mask)
        return advantages, {_CRITIC: {"values": values, "returns": returns, "explained": explained}}

    def token_loss(self, tokens: PolicyTokens) -> tuple[jax.Array, Values, Values]:
        """The loss per token [B, T], which is GRPO's for advantages per token; the KL metric is the k3 estimate."""
        policy = GRPO(
            eps_low=self.eps_low,
            eps_high=self.eps_high,
            beta=self.beta if self.kl_in == "loss" else 0.0,
            entropy=self.entropy,
            importance_cap=self.importance_cap,
        )
        loss, metrics, maxima = policy.token_loss(tokens)
        if self.needs_reference:
            metrics["kl"] = k3_kl(tokens.logprobs, tokens.reference_logprobs)
        return loss, metrics, maxima

    def reduce(self, values: jax.Array, mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
        """Sum and count by ``aggregate``."""
        return reduce_tokens(values, mask, self.aggregate, max_tokens)

    def learned_loss(
        self, name: str, output: jax.Array, mask: jax.Array, targets: Any
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
        """The clipped value loss, a mean over tokens; metrics of the values before the updates and of the returns."""
        loss, clipped = clipped_value_loss(output, targets["values"], targets["returns"], self.value_clip)
        total, count = reduce_tokens(loss, mask, "token", 0)
        metrics = {
            "explained_variance": targets["explained"],
            "clip_share": clipped,
            "value_mean": targets["values"],
            "return_mean": targets["returns"],
        }
        return total, count, {key: (jnp.where(mask, x, 0.0).sum(), count) for key, x in metrics.items()}
