"""DAPO's terms that act on a rollout (arXiv 2503.14476): dynamic sampling, overlong penalty and overlong filtering."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.algorithms.advantages import overlong_penalty
from r1jax.algorithms.interface import Algorithm, NoEffect
from r1jax.errors import UserError
from r1jax.traced import enabled, where_enabled


@dataclasses.dataclass(frozen=True)
class RolloutTerms(Algorithm):
    """An algorithm that may drop groups without spread, penalise long completions and leave out truncated ones."""

    overlong_buffer: int = 0
    """The penalty of long completions grows to -1 over this many tokens before max-tokens (DAPO); 0 turns it off."""
    mask_truncated: bool = False
    """Leave truncated completions out of the loss and its mean (DAPO); their rewards remain in the advantages of their
    group."""
    drop_equal_groups: bool = False
    """Leave groups without spread out of the loss and its mean, and sample others instead (DAPO)."""
    max_resamples: int = 2
    """Maximum number of further attempts at sampling per step if equal groups are dropped."""

    @property
    def attempts(self) -> int:
        """Maximum number of attempts at sampling in a step."""
        return 1 + self.max_resamples if self.drop_equal_groups else 1

    @property
    def keeps_all(self) -> bool:
        """True unless equal groups are dropped."""
        return not self.drop_equal_groups

    def check(self, max_tokens: int) -> None:
        """Raises UserError if the overlong buffer is longer than a completion."""
        if self.overlong_buffer > max_tokens:
            raise UserError(
                f"overlong-buffer={self.overlong_buffer} must be at most max-tokens={max_tokens}: change one of them "
                "(DAPO's buffer is a fifth of max-tokens)"
            )

    def without_effect(self, updates: int) -> Sequence[NoEffect]:
        """The number of attempts, if there is only one."""
        why = "unless equal groups are dropped: set rl.drop-equal-groups"
        return () if self.drop_equal_groups else (NoEffect(("max_resamples",), why),)

    def counted(self, truncated: np.ndarray) -> np.ndarray:
        """All samples, or those that were not truncated: [B] bool."""
        return ~truncated if self.mask_truncated else np.ones(len(truncated), bool)

    def keeps(self, rewards: np.ndarray, spread: np.ndarray, rule_rewards: Mapping[str, np.ndarray]) -> np.ndarray:
        """All groups, or those with spread: [P] bool."""
        return spread if self.drop_equal_groups else np.ones(len(spread), bool)

    def shape_rewards(self, rewards: np.ndarray, lengths: np.ndarray, max_tokens: int) -> np.ndarray:
        """Rewards with the overlong penalty: [B]."""
        if not enabled(self.overlong_buffer):
            return rewards
        penalty = overlong_penalty(lengths, max_tokens, self.overlong_buffer)
        return rewards + where_enabled(self.overlong_buffer, penalty, 0.0)
