"""Settings of reinforcement learning."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal

from r1jax.algorithms.advantages import Baseline
from r1jax.errors import UserError
from r1jax.rl.update import Objective, check_microbatch
from r1jax.sampling.processors import Sampling
from r1jax.settings import may_change, may_rise
from r1jax.training.state import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class RLConfig(OptimizerConfig):
    """GRPO (arXiv 2402.03300) and its variants."""

    steps: int = may_rise(100)
    """Rollouts; each is followed by minibatches * inner-epochs optimiser updates."""
    prompts: int = 16
    """Questions a rollout."""
    group: int = 16
    """Samples of each question (G)."""
    minibatches: int = 1
    """Parts that a rollout is split into, at random, with an update for each."""
    inner_epochs: int = 1
    """Passes over a rollout."""
    microbatch: int = may_change(0)
    """Sequences in one backward pass, over all devices; 0 takes the whole minibatch."""
    loss: Literal["clip", "cispo"] = "clip"
    """clip: PPO's clipped ratio; cispo: clipped ratio as a constant weight (arXiv 2506.13585). As eps-low and
    eps-high, it changes something only with more than one update a rollout: the first has a ratio of 1."""
    eps_low: float = 0.2
    """The ratio is clipped below 1 - this; from 1 on there is no lower bound."""
    eps_high: float = 0.2
    """The ratio is clipped above 1 + this; DAPO raises it to 0.28."""
    beta: float = 0.0
    """Weight of the KL to the reference; 0 has no reference."""
    reference_every: int = 0
    """Rollouts after which the policy replaces the reference; 0 never."""
    entropy: float = 0.0
    """Weight of an entropy bonus."""
    baseline: Baseline = "group"
    """Advantage: group (GRPO), leave_one_out (RLOO), batch (REINFORCE++)."""
    normalise_std: bool = True
    """Divide advantages by the standard deviation; Dr. GRPO does not."""
    aggregate: Literal["sequence", "token", "constant"] = "sequence"
    """Mean of the loss: over each sequence first (GRPO), over tokens (DAPO), over max-tokens (Dr. GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio of each token (GRPO) or of the whole sequence (GSPO): the same with one update a rollout, unless
    importance-cap weighs its tokens."""
    importance_cap: float = 0.0
    """Truncated importance sampling between sampler and trainer at this cap; 0 leaves it out."""
    overlong_buffer: int = 0
    """Tokens before the limit over which a penalty grows to -1 (DAPO); 0 leaves it out."""
    drop_equal_groups: bool = False
    """Leave groups without spread out of the loss and its mean, and sample others in their place."""
    max_resamples: int = 2
    """Further rollouts a step in search of groups with spread, where equal groups are dropped."""
    logprob_chunk: int = may_change(8192)
    """Tokens whose logits are in memory at one time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2:
            raise UserError(f"rl.group={self.group}: a sample is compared with the others of its group, so at least 2")
        if min(self.steps, self.prompts, self.minibatches, self.inner_epochs, self.logprob_chunk) < 1:
            raise UserError("rl: steps, prompts, minibatches, inner-epochs and logprob-chunk must be at least 1")
        for name in (
            "microbatch",
            "eps_low",
            "eps_high",
            "beta",
            "reference_every",
            "importance_cap",
            "overlong_buffer",
            "max_resamples",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"rl.{name.replace('_', '-')}={getattr(self, name)} must be at least 0")
        if self.sequences % self.minibatches:
            raise UserError(
                f"{self.sequences} sequences (prompts * group) do not split into {self.minibatches} minibatches"
            )
        if self.minibatch % self.microbatch_size:
            raise UserError(
                f"rl.microbatch={self.microbatch} does not divide the minibatch of {self.minibatch} sequences"
            )

    @property
    def sequences(self) -> int:
        """Sequences of one rollout."""
        return self.prompts * self.group

    @property
    def minibatch(self) -> int:
        """Sequences of one update."""
        return self.sequences // self.minibatches

    @property
    def microbatch_size(self) -> int:
        """Sequences of one backward pass."""
        return self.microbatch or self.minibatch

    @property
    def updates(self) -> int:
        """Optimiser updates a rollout."""
        return self.minibatches * self.inner_epochs

    def objective(self, sampling: Sampling) -> Objective:
        """The loss, as the update reads it."""
        return Objective(
            loss=self.loss,
            eps_low=self.eps_low,
            eps_high=self.eps_high,
            beta=self.beta,
            entropy=self.entropy,
            aggregate=self.aggregate,
            ratio=self.ratio,
            importance_cap=self.importance_cap,
            temperature=sampling.policy_temperature,
            max_tokens=sampling.max_tokens,
            on_policy=self.updates == 1,
            chunk=self.logprob_chunk,
        )


def without_effect(config: RLConfig) -> list[str]:
    """A line for each reason why settings that are not the defaults change nothing, and what would let them."""
    defaults = {field.name: field.default for field in dataclasses.fields(RLConfig)}
    # Weights of importance differ from token to token, also where a sequence's ratio is 1.
    ratio = () if config.importance_cap else ("ratio",)
    reasons = (
        (
            config.updates == 1,
            ("loss", *ratio, "eps_low", "eps_high"),
            "with one update a rollout, whose ratio is 1: raise rl.minibatches or rl.inner-epochs",
        ),
        (not config.beta, ("reference_every",), "without a reference: set rl.beta"),
        (not config.drop_equal_groups, ("max_resamples",), "where equal groups are kept: set rl.drop-equal-groups"),
    )
    lines = []
    for applies, names, why in reasons:
        changed = [name for name in names if getattr(config, name) != defaults[name]]
        if applies and changed:
            listed = ", ".join(f"rl.{name.replace('_', '-')}={getattr(config, name)}" for name in changed)
            lines.append(f"{listed}: no effect {why}")
    return lines


def warn_without_effect(config: RLConfig) -> None:
    """Warns of each line of without_effect."""
    for line in without_effect(config):
        warnings.warn(line, stacklevel=3)


def check_run(config: RLConfig, sampling: Sampling, data_axis: int) -> None:
    """Raises UserError for combinations that no single config can see, and warns of settings without effect."""
    warn_without_effect(config)
    settings = "rl.prompts, rl.group, rl.minibatches, rl.microbatch"
    check_microbatch(config.microbatch_size, "sequences", data_axis, settings)
    if sampling.temperature == 0:
        raise UserError("sampling.temperature=0 gives a group of equal samples, which teaches nothing")
    if config.overlong_buffer > sampling.max_tokens:
        raise UserError(f"rl.overlong-buffer={config.overlong_buffer} is beyond max-tokens={sampling.max_tokens}")
