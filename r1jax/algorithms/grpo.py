"""GRPO, group relative policy optimisation (arXiv 2402.03300, section 4.1), with the terms of its relatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from r1jax.algorithms import ratios
from r1jax.algorithms.advantages import Baseline, group_advantages
from r1jax.algorithms.interface import NoEffect, PolicyTokens, Values
from r1jax.algorithms.kl import k3_kl
from r1jax.algorithms.reductions import Aggregate, reduce_tokens
from r1jax.algorithms.rollout_terms import RolloutTerms
from r1jax.traced import enabled, where_enabled

ONE_UPDATE = "with one update a rollout, whose ratio is 1: raise rl.minibatches or rl.inner-epochs"


@dataclasses.dataclass(frozen=True)
class GRPO(RolloutTerms):
    """Per token: -surrogate(pi / pi_old, A) * importance + beta * k3(pi, pi_ref) - entropy * H(pi)."""

    loss: Literal["clip", "cispo"] = "clip"
    """Surrogate: PPO's clipped ratio, or CISPO's clipped ratio as a constant weight (arXiv 2506.13585). Like eps-low
    and eps-high, it has an effect only with several updates per rollout, since the ratio is 1 in the first."""
    eps_low: float = 0.2
    """The ratio is clipped below 1 - eps-low; a value of 1 or more removes the lower bound."""
    eps_high: float = 0.2
    """The ratio is clipped above 1 + eps-high; DAPO raises it to 0.28."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference; with 0 there is no reference."""
    entropy: float = 0.0
    """Weight of an entropy bonus."""
    baseline: Baseline = "group"
    """Baseline of the advantages: group (GRPO), leave_one_out (RLOO) or batch (REINFORCE++)."""
    normalise_std: bool = True
    """Divide advantages by the standard deviation; Dr. GRPO does not, and neither does leave_one_out."""
    aggregate: Aggregate = "sequence"
    """Mean of the loss: sequence (each sequence first, GRPO), token (DAPO) or constant (per max-tokens, Dr. GRPO)."""
    ratio: ratios.Ratio = "token"
    """Ratio of each token (GRPO) or of the whole sequence (GSPO); they differ only with several updates per
    rollout or with importance-cap."""
    importance_cap: float = 0.0
    """Cap of truncated importance sampling between sampler and trainer; 0 turns it off."""

    smallest_group = 2

    @property
    def needs_reference(self) -> bool:
        """True if the loss has a KL term."""
        return enabled(self.beta)

    def without_effect(self, updates: int) -> Sequence[NoEffect]:
        """The settings of the ratio, if it is always 1."""
        # Importance weights differ from token to token, so the level of the ratio acts with a ratio of 1, too.
        ratio = () if self.importance_cap else ("ratio",)
        of_ratio = (NoEffect(("loss", *ratio, "eps_low", "eps_high"), ONE_UPDATE),) if updates == 1 else ()
        return (*of_ratio, *super().without_effect(updates))

    def advantages(self, rewards: np.ndarray, resolution: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Each sample against the others of its group: [P, G]."""
        return group_advantages(rewards, self.baseline, self.normalise_std, resolution=resolution, counts=counts)

    def token_loss(self, tokens: PolicyTokens) -> tuple[jax.Array, Values, Values]:
        """The loss per token [B, T]; bounded_share marks log-differences above ratios.BOUND in one of the terms."""
        logp, old, advantages = tokens.logprobs, tokens.old_logprobs, tokens.advantages
        log_ratios = ratios.log_ratio(logp, old, tokens.mask, self.ratio)
        clip = (self.eps_low, self.eps_high)
        if self.loss == "cispo":
            loss, clipped = ratios.cispo_surrogate(log_ratios, logp, advantages, *clip)
        else:
            loss, clipped = ratios.clipped_surrogate(log_ratios, advantages, *clip)
        differences, metrics = [log_ratios], ratios.clip_metrics(log_ratios, clipped, advantages)
        if enabled(cap := self.importance_cap):
            loss *= where_enabled(cap, ratios.truncated_importance(old, tokens.sampling_logprobs, cap), 1.0)
            differences.append(where_enabled(cap, old - tokens.sampling_logprobs, 0.0))
        if enabled(self.beta):
            kl = k3_kl(logp, tokens.reference_logprobs)
            loss, metrics["kl"] = loss + self.beta * kl, kl
            differences.append(where_enabled(self.beta, tokens.reference_logprobs - logp, 0.0))
        if enabled(self.entropy):
            loss -= self.entropy * tokens.entropy
        metrics["bounded_share"] = ratios.beyond_bound(*differences)
        return loss, metrics, {"ratio_max": metrics["ratio_mean"]}

    def reduce(self, values: jax.Array, mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
        """Sum and count by ``aggregate``."""
        return reduce_tokens(values, mask, self.aggregate, max_tokens)
