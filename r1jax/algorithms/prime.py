"""PRIME, process reinforcement through implicit rewards (arXiv 2502.01456)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.advantages import ROUNDING, Baseline, wide
from r1jax.algorithms.gae import discounted_sums
from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.interface import LearnedModel, NoEffect, RolloutTokens, Values
from r1jax.algorithms.reductions import Aggregate
from r1jax.errors import UserError
from r1jax.traced import enabled, is_array, where_enabled

LABELS = "accuracy"  # the rule whose rewards the process reward model learns
_UNDECIDED = 1e-5  # summed rewards below it may be rounding: the model starts as the reference


@dataclasses.dataclass(frozen=True)
class PRIME(GRPO):
    """GRPO's clipped loss with process rewards of a model that learns online which completions are correct.

    The implicit process reward model pi_prm starts from the policy at the start of training, which is also the fixed
    reference pi_ref. The process reward of token t is r_t = beta log(pi_prm / pi_ref), beta = ``prm_beta`` (eq. 3). In
    each step pi_prm is trained first, on -y log sigmoid(R) - (1 - y) log(1 - sigmoid(R)) with R = sum_t r_t (eq. 5).
    The label y is the reward of the rule accuracy, limited to [0, 1]: partial credit is a label between 0 and 1, and
    completions to which the rule does not apply (nan) are not learned. Then, for completion i of K,

        A_it = sum_{s >= t} gamma^(s - t) (r_is - sum_{j != i} m_j / (K - 1)) + (o_i - sum_{j != i} o_j / (K - 1)),

    with m_j the mean of r_j over the tokens of completion j, the end token included, and o the total reward of
    ``--rewards``. Without format and other rewards, o is the label, as in the paper.

    This is the equation of the paper, whose text says that the baseline is made of averaged process rewards. Neither
    the process rewards nor the advantages are normalised in it. The published code (recipe/prime of verl) differs: it
    divides r by the largest absolute sum of r from a token to the end in the batch (``normalise_process``), weights
    both terms by 5, subtracts sum_j m_j / (K - 1) from r_t K / (K - 1), which adds (r_t - m_i) / (K - 1) to each term
    of the sum, and whitens A over all tokens of the batch. The factor 5 and the whitening are not offered here.

    The learning rates of the policy and of pi_prm are 5e-7 and 1e-6 in the paper, K is 4 (``--rl.learning-rate``,
    ``--rl.group``), and there is no KL divergence.
    """

    baseline: Baseline = "leave_one_out"
    """Baseline of the outcome rewards: leave_one_out (PRIME), group or batch. Process rewards have leave_one_out."""
    aggregate: Aggregate = "token"
    """Mean of the loss: token (PRIME), sequence (each sequence first) or constant (per max-tokens)."""
    drop_equal_groups: bool = True
    """Leave groups without spread or with an accuracy outside accuracy-low and accuracy-high out of the loss, and
    sample others instead."""
    max_resamples: int = 3
    """Maximum number of further attempts at sampling per step if groups are dropped; the published code has 3."""
    accuracy_low: float = 0.2
    """Groups with a smaller mean accuracy are dropped."""
    accuracy_high: float = 0.8
    """Groups with a larger mean accuracy are dropped."""
    gamma: float = 1.0
    """Discount of the process rewards of later tokens, from 0 to 1."""
    prm_beta: float = 0.05
    """Process rewards are this factor times the log-ratio of the process reward model to the reference."""
    prm_learning_rate: float | None = None
    """Learning rate of the process reward model; None is twice the policy's."""
    process_weight: float = 1.0
    """Weight of the process rewards in the advantages; with 0 only the outcome rewards count."""
    normalise_process: bool = False
    """Divide process rewards in the advantages by the largest absolute sum from a token to the end in the batch."""

    fixed_reference = True
    rules = (LABELS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.accuracy_low <= self.accuracy_high <= 1:
            raise UserError(
                f"accuracy-low={self.accuracy_low} and accuracy-high={self.accuracy_high} must be in this order and at "
                "most 1"
            )
        if self.gamma > 1:
            raise UserError(f"gamma={self.gamma} must be at most 1")

    @property
    def needs_reference(self) -> bool:
        """True, since process rewards are relative to the reference."""
        return True

    @property
    def learned(self) -> Mapping[str, LearnedModel]:
        """The process reward model, which is updated before the advantages are computed."""
        return {"prm": LearnedModel("logprob", self.prm_learning_rate, learning_rate_factor=2.0, updated="before")}

    def without_effect(self, updates: int) -> Sequence[NoEffect]:
        """The settings of GRPO that have no effect, and the limits of accuracy if no groups are dropped."""
        why = "unless equal groups are dropped: set rl.drop-equal-groups"
        limits = () if self.drop_equal_groups else (NoEffect(("accuracy_low", "accuracy_high"), why),)
        return (*limits, *super().without_effect(updates))

    def keeps(self, rewards: np.ndarray, spread: np.ndarray, rule_rewards: Mapping[str, np.ndarray]) -> np.ndarray:
        """Groups with spread whose accuracy is in the range, its ends included: [P] bool; False if it is nan."""
        kept = super().keeps(rewards, spread, rule_rewards)
        if not self.drop_equal_groups:
            return kept
        accuracy = wide(rule_rewards[LABELS])[1].mean(axis=1)
        rounding = ROUNDING if is_array(accuracy) else 0.0  # so that means in float32 keep the ends included
        return kept & (accuracy >= self.accuracy_low - rounding) & (accuracy <= self.accuracy_high + rounding)

    def prepare(self, rollout: RolloutTokens) -> tuple[jax.Array, dict[str, Any]]:
        """Advantages per token, and labels and reference of the process reward model."""
        rewards, mask = self._process_rewards(rollout), rollout.mask
        if enabled(normalise := self.normalise_process):
            largest = jnp.abs(discounted_sums(rewards, jnp.ones_like(rewards))).max()
            rewards /= where_enabled(normalise, largest + 1e-6, 1.0)
        process = process_advantages(rewards, mask, rollout.group, self.gamma)
        advantages = jnp.where(mask, rollout.advantages[:, None] + self.process_weight * process, 0.0)
        targets = {"labels": rollout.rule_rewards[LABELS], "reference": rollout.reference_logprobs}
        return advantages, {"prm": targets}

    def token_values(self, rollout: RolloutTokens) -> Values:
        """The process reward of each token."""
        return {"process_reward": self._process_rewards(rollout)}

    def learned_loss(
        self, name: str, output: jax.Array, mask: jax.Array, targets: Any
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
        """Cross-entropy of the label and the summed process rewards of each completion.

        Metrics: accuracy, the share of completions whose summed rewards have the sign that the label asks for, which is
        positive above 0.5, where a sum that is 0 up to rounding counts one half; reward_correct and reward_wrong, the
        mean process reward per token of correct (label above 0.5) and of other completions.
        """
        rewards = jnp.where(mask, self.prm_beta * (output - targets["reference"]), 0.0)
        known = mask.any(axis=1) & ~jnp.isnan(targets["labels"])
        labels = jnp.clip(jnp.where(known, targets["labels"], 0.0), 0.0, 1.0)
        scores, good = rewards.sum(axis=1), labels > 0.5
        loss = -labels * jax.nn.log_sigmoid(scores) - (1 - labels) * jax.nn.log_sigmoid(-scores)
        count = known.sum().astype(jnp.float32)
        right = jnp.where(jnp.abs(scores) < _UNDECIDED, 0.5, (scores > 0) == good)
        metrics = {"accuracy": (jnp.where(known, right, 0.0).sum(), count)}
        for which, rows in (("correct", known & good), ("wrong", known & ~good)):
            tokens = jnp.where(rows[:, None], mask, False).sum().astype(jnp.float32)
            metrics[f"reward_{which}"] = (jnp.where(rows, scores, 0.0).sum(), tokens)
        return jnp.where(known, loss, 0.0).sum(), count, metrics

    def _process_rewards(self, rollout: RolloutTokens) -> jax.Array:
        difference = rollout.outputs["prm"] - rollout.reference_logprobs
        return jnp.where(rollout.mask, self.prm_beta * difference, 0.0)


def process_advantages(rewards: jax.Array, mask: jax.Array, group: int, gamma: float) -> jax.Array:
    """sum_{s >= t} gamma^(s - t) (r_is - mean_{j != i} m_j), with m_j the mean of r_j over the tokens of its mask.

    Args:
      rewards: [B, T] float32, of each token; 0 outside the mask. Rows are sorted by group.
      mask: [B, T] bool. A completion without a token in it is not among the others j.
      group: completions of a group.
      gamma: discount, from 0 to 1.

    Returns:
      [B, T] float32, 0 outside the mask. The first term of arXiv 2502.01456, section 3.2.
    """
    chex.assert_equal_shape([rewards, mask])
    lengths = mask.sum(axis=1)
    means = (rewards.sum(axis=1) / jnp.maximum(lengths, 1)).reshape(-1, group)
    counted = (lengths > 0).reshape(-1, group)
    others = counted.sum(axis=1, keepdims=True) - counted
    baseline = (means.sum(axis=1, keepdims=True) - means) / jnp.maximum(others, 1)
    centred = jnp.where(mask, rewards - baseline.reshape(-1, 1), 0.0)
    return jnp.where(mask, discounted_sums(centred, jnp.full_like(centred, gamma)), 0.0)
