"""What an algorithm of policy optimisation consists of.

An algorithm is a frozen, hashable dataclass whose fields are its settings, and therefore its flags; it is static under
jit. It works on arrays alone. To add one, derive a class from Algorithm in a file of its own and add it to
r1jax.algorithms.table.

One step of training (r1jax.rl.step) calls, in this order:

1. ``shape_rewards``, ``keeps``, ``advantages`` and ``counted`` on the host, for the groups of a rollout;
2. ``prepare`` and ``token_values`` on the devices, only if the algorithm has ``learned`` models: advantages per token,
   the targets of the models, and values to log, from the outputs of the models;
3. ``token_loss`` and ``reduce`` in each update of the policy, and ``learned_loss`` in each update of a learned model.

The updates of a learned model with ``updated="before"`` come between 2 and 3; their targets are those of ``prepare``,
which is then called again with the model's new outputs, as is ``token_values``.

In an ablation (r1jax.ablation) all of them are parts of one program: the methods of 1 get arrays of JAX, and settings
that are numbers may be arrays (r1jax.traced).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import flax.struct
import jax
import numpy as np

from r1jax.errors import UserError

Values = dict[str, jax.Array]  # name -> [B, T]


@flax.struct.dataclass
class PolicyTokens:
    """What the loss of the policy reads. Position t of each [B, T] belongs to the token after position t."""

    logprobs: jax.Array  # [B, T] float32, of the policy that is trained; 0 outside the mask
    entropy: jax.Array  # [B, T] float32, of the policy that is trained
    old_logprobs: jax.Array  # [B, T] float32, of the policy before the first update
    sampling_logprobs: jax.Array  # [B, T] float32, of the distribution that the tokens were sampled from
    reference_logprobs: jax.Array  # [B, T] float32; zeros unless needs_reference
    advantages: jax.Array  # [B, T] float32
    mask: jax.Array  # [B, T] bool, the tokens of completions that count


@flax.struct.dataclass
class RolloutTokens:
    """What ``prepare`` reads: a whole rollout. Rows are sorted by group: [B] is [P, G] flattened.

    Position t of each [B, T] belongs to the token after position t: a value there is that of the text before the token.
    """

    mask: jax.Array  # [B, T] bool, the tokens of completions that count
    rewards: jax.Array  # [B] float32, as given to ``advantages``
    rule_rewards: dict[str, jax.Array]  # name of a rule -> [B] float32, unweighted; nan if it does not apply
    advantages: jax.Array  # [B] float32, as returned by ``advantages``
    policy_logprobs: jax.Array  # [B, T] float32, of the policy that sampled
    reference_logprobs: jax.Array  # [B, T] float32; zeros unless needs_reference
    outputs: Values  # of each learned model, before the updates of the policy
    group: int = flax.struct.field(pytree_node=False, default=1)  # G


@dataclasses.dataclass(frozen=True)
class LearnedModel:
    """A model that is trained beside the policy, from the policy's weights at the start of training or a checkpoint.

    It is updated as often as the policy, on minibatches of the same size. The settings of its optimiser
    (r1jax.training.optimizer) that are None or absent here are the policy's. Log-probabilities are at the policy's
    temperature; those of the policy's initial weights are the reference's, unless the reference is replaced.
    """

    head: Literal["value", "logprob"]  # output at a position: a number, or the log-probability of the next token
    learning_rate: float | None = None
    learning_rate_factor: float = 1.0  # if learning_rate is None: times the policy's
    warmup_steps: int = 0  # updates
    schedule: Literal["constant", "linear", "cosine"] | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    updated: Literal["before", "after"] = "after"  # after each update of the policy, or before all of a step
    start: str = ""  # checkpoint of the policy's architecture with this head; empty: the policy's weights


class NoEffect(NamedTuple):
    """Settings that have no effect, and why, as the end of a sentence that names the setting to change."""

    names: tuple[str, ...]  # of fields
    why: str


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Base of all algorithms; raises UserError for settings that are negative or not finite."""

    smallest_group: ClassVar[int] = 1  # samples of a question that the advantages need
    fixed_reference: ClassVar[bool] = False  # True if the reference must remain the policy at the start of training
    rules: ClassVar[tuple[str, ...]] = ()  # names of the rules whose rewards the algorithm reads: all must be given

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name.replace("_", "-")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name}={value} is not a finite number")
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"{name}={value} must be at least 0")

    @property
    def needs_reference(self) -> bool:
        """True if log-probabilities of a reference policy are needed."""
        return False

    @property
    def attempts(self) -> int:
        """Maximum number of attempts at sampling in a step, which ends them when it has as many groups as prompts."""
        return 1

    @property
    def keeps_all(self) -> bool:
        """True if ``keeps`` keeps all groups, whatever their rewards: the batch is then known before the rewards."""
        return type(self).keeps is Algorithm.keeps

    @property
    def learned(self) -> Mapping[str, LearnedModel]:
        """The models that are trained beside the policy, by name."""
        return {}

    def check(self, max_tokens: int) -> None:
        """Raises UserError for settings that do not fit completions of at most ``max_tokens`` tokens."""

    def shape_rewards(self, rewards: np.ndarray, lengths: np.ndarray, max_tokens: int) -> np.ndarray:
        """Rewards [B] of completions of ``lengths`` [B] tokens, with the algorithm's own terms: [B] float32."""
        return rewards

    def keeps(self, rewards: np.ndarray, spread: np.ndarray, rule_rewards: Mapping[str, np.ndarray]) -> np.ndarray:
        """The groups to learn from: [P] bool.

        rewards: [P, G], as returned by ``shape_rewards``. spread: [P] bool, False where they are equal. rule_rewards:
        name of a rule -> [P, G] float32, unweighted; nan if it does not apply to the problem.
        """
        return np.ones(len(rewards), bool)

    def advantages(self, rewards: np.ndarray, resolution: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Advantages [P, G] float32 of rewards [P, G]; by default the rewards, for algorithms that use ``prepare``.

        resolution: [P], the smallest difference of rewards that is not noise. counts: [P] bool, groups that are kept.
        """
        return rewards.astype(np.float32)

    def counted(self, truncated: np.ndarray) -> np.ndarray:
        """The samples of kept groups whose tokens count: [B] bool. truncated: [B] bool, ended at the longest length."""
        return np.ones(len(truncated), bool)

    def without_effect(self, updates: int) -> Sequence[NoEffect]:
        """Settings that have no effect, given the others and the number of updates per rollout."""
        return ()

    def prepare(self, rollout: RolloutTokens) -> tuple[jax.Array, dict[str, Any]]:
        """Advantages [B, T] float32, and for ``learned_loss`` a tree of arrays [B, ...] of each learned model."""
        raise NotImplementedError

    def token_values(self, rollout: RolloutTokens) -> Values:
        """Values per token [B, T], such as process rewards, that completions.jsonl shows for the logged completions."""
        return {}

    def token_loss(self, tokens: PolicyTokens) -> tuple[jax.Array, Values, Values]:
        """The policy's loss per token [B, T]; metrics [B, T] whose mean is logged, and metrics whose maximum is."""
        raise NotImplementedError

    def reduce(self, values: jax.Array, mask: jax.Array, max_tokens: int) -> tuple[jax.Array, jax.Array]:
        """Sum and count of values per token [B, T]: the policy's loss is sum / count over a whole batch."""
        raise NotImplementedError

    def learned_loss(
        self, name: str, output: jax.Array, mask: jax.Array, targets: Any
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
        """Sum and count of the loss of a learned model, and metrics as (sum, weight): [] float32 each.

        output: [B, T] float32, of the model that is trained. targets: of its rows, from ``prepare``.
        """
        raise NotImplementedError
