"""Settings of reinforcement learning: those of a step, and the algorithm's."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection
from typing import Annotated

import tyro

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.interface import Algorithm, NoEffect
from r1jax.algorithms.table import ALGORITHMS, AnyAlgorithm
from r1jax.cli import Named
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.sampling.processors import Sampling
from r1jax.settings import may_change, may_rise
from r1jax.training.balance import Balance
from r1jax.training.by_device import computes_by_device
from r1jax.training.gradients import check_microbatch
from r1jax.training.multi_token import MultiTokenConfig, check_mtp_weight

_ALGORITHM = "Algorithm with all of its own settings; flags of single settings are applied after it."


@dataclasses.dataclass(frozen=True)
class UpdateContext:
    """What an update needs to know of the step around it; static under jit."""

    temperature: float = 1.0  # of the policy
    max_tokens: int = 128  # of a completion
    on_policy: bool = False  # one update a rollout: the old policy is the current one
    chunk: int = 2048  # tokens whose logits are in memory at one time
    balance: Balance = Balance()  # of the policy's experts
    mtp_weight: float = 0.0  # of the loss of multi-token prediction
    in_place: bool = True  # gradients are added up in place, which vmap does not support


@dataclasses.dataclass(frozen=True)
class RLConfig(MultiTokenConfig):
    """Reinforcement learning by groups of samples: GRPO (arXiv 2402.03300), its relatives, and other algorithms."""

    steps: int = may_rise(100)
    """Number of steps: a rollout each, followed by minibatches * inner-epochs optimiser updates."""
    prompts: int = 16
    """Questions per rollout."""
    group: int = 16
    """Samples per question (G)."""
    minibatches: int = 1
    """Parts that a rollout is split into at random, with one update for each part."""
    inner_epochs: int = 1
    """Passes over a rollout."""
    microbatch: int = may_change(0)
    """Sequences in one backward pass, over all devices; 0 takes the whole minibatch."""
    reference_every: int = 0
    """The policy replaces the reference after every this many steps; 0 keeps the first reference."""
    logprob_chunk: int = may_change(8192)
    """Tokens whose logits are in memory at one time. On a Hopper GPU with --kernels=auto or mosaic, the logits of a
    microbatch are computed once instead of twice if this is at least the number of its tokens and the loss has no
    entropy bonus."""
    pack: bool = False
    """Compute several sequences in one row, in the policy's updates and for the log-probabilities of the old policy and
    the reference, so that few positions are padding. A backward pass then has at most as many rows as microbatch, and
    gradients are added up as over microbatches. The results differ by rounding. Models with experts are refused;
    learned models, such as a critic, have a sequence in each row."""
    replay_routing: bool = False
    """Use in updates the experts that each token used in sampling, with weights from the updated model (routing replay,
    arXiv 2510.11370). The metric router_disagreement is the share of choices of routers that would be others."""
    # No prefix on the command line: --rl.beta and not --rl.algorithm.beta.
    algorithm: Annotated[AnyAlgorithm, tyro.conf.arg(name=""), Named(tuple(ALGORITHMS.items()), _ALGORITHM)] = GRPO()

    def __post_init__(self) -> None:
        super().__post_init__()
        least = self.algorithm.smallest_group
        if self.group < least:
            raise UserError(
                f"rl.group={self.group}: a sample is compared with the others of its group, so at least {least}"
            )
        if self.reference_every and self.algorithm.fixed_reference:
            raise UserError(f"rl.reference-every={self.reference_every}: this algorithm keeps the first reference")
        if min(self.steps, self.prompts, self.group, self.minibatches, self.inner_epochs, self.logprob_chunk) < 1:
            raise UserError("rl: steps, prompts, group, minibatches, inner-epochs and logprob-chunk must be at least 1")
        for name in ("microbatch", "reference_every"):
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
    def microbatches(self) -> int:
        """Backward passes of one update."""
        return self.minibatch // self.microbatch_size

    @property
    def passes(self) -> int:
        """Forward passes over a whole rollout, of a microbatch each."""
        return self.sequences // self.microbatch_size

    @property
    def updates(self) -> int:
        """Optimiser updates of one rollout."""
        return self.minibatches * self.inner_epochs

    def context(self, sampling: Sampling) -> UpdateContext:
        """What the updates need to know of the step."""
        return UpdateContext(
            sampling.policy_temperature,
            sampling.max_tokens,
            on_policy=self.updates == 1,
            chunk=self.logprob_chunk,
            balance=self.balance,
            mtp_weight=self.mtp_weight,
        )


def without_effect(config: RLConfig, data_axis: int = 1) -> list[str]:
    """A line for each reason why settings other than the defaults have no effect, and what would give them one.

    data_axis: devices that split a batch.
    """
    algorithm = config.algorithm
    values = vars(config) | vars(algorithm)
    defaults = {field.name: field.default for part in (config, algorithm) for field in dataclasses.fields(part)}
    reasons = [*algorithm.without_effect(config.updates)]
    if not algorithm.needs_reference:
        reasons.append(NoEffect(("reference_every",), "without a reference: set rl.beta"))
    if config.minibatch <= data_axis:
        reasons.append(NoEffect(("pack",), "with one sequence of an update on a device: raise rl.prompts or rl.group"))
    lines = []
    for names, why in reasons:
        changed = [name for name in names if values[name] != defaults[name]]
        if changed:
            listed = ", ".join(f"rl.{name.replace('_', '-')}={values[name]}" for name in changed)
            lines.append(f"{listed}: no effect {why}")
    return lines


def warn_without_effect(config: RLConfig, data_axis: int = 1) -> None:
    """Warns of each line of without_effect."""
    for line in without_effect(config, data_axis):
        warnings.warn(line, stacklevel=3)


def check_parts(config: RLConfig, model: ModelConfig) -> None:
    """Raises UserError for settings that do not fit the parts of the model, or a model that does not fit the mesh."""
    computes_by_device(model)  # raises it for a mesh
    check_routing(config, model)
    check_mtp_weight(config.mtp_weight, model, "rl.mtp-weight")
    if config.pack and model.experts is not None:
        raise UserError("rl.pack: not for a model with experts: leave it out")
    if config.pack and config.mtp_weight:
        raise UserError("rl.pack: not with the loss of multi-token prediction: leave it or rl.mtp-weight out")


def check_routing(config: RLConfig, model: ModelConfig) -> None:
    """Raises UserError if the routing of a model without experts is to be replayed."""
    if config.replay_routing and model.experts is None:
        raise UserError("rl.replay-routing: the model has no experts: leave it out, or choose a model with experts")


def check_run(config: RLConfig, sampling: Sampling, data_axis: int) -> None:
    """Warns of settings without effect, and raises UserError for settings that do not fit sampling or the mesh."""
    warn_without_effect(config, data_axis)
    settings = "rl.prompts, rl.group, rl.minibatches, rl.microbatch"
    check_microbatch(config.microbatch_size, "sequences", data_axis, settings)
    if sampling.temperature == 0:
        raise UserError("sampling.temperature=0 gives groups of equal samples: training on them teaches nothing")
    config.algorithm.check(sampling.max_tokens)


def check_rules(algorithm: Algorithm, rewards: Collection[str]) -> None:
    """Raises UserError if the algorithm reads the reward of a rule that is not among ``rewards``."""
    for rule in algorithm.rules:
        if rule not in rewards:
            raise UserError(
                f"{type(algorithm).__name__} learns from the reward {rule}, which is not among the rewards "
                f"{', '.join(sorted(rewards))}: add {rule} with a weight above 0, or choose another algorithm"
            )
