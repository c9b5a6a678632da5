"""The state of reinforcement learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import cast
from r1jax.rl.learned import init_learner, learner_shapes
from r1jax.rl.setup import StepSetup
from r1jax.sharding import Params, entered_mesh
from r1jax.traced import program
from r1jax.training.state import TrainState, init_state, state_shapes


@flax.struct.dataclass
class RLState:
    """All that a step changes; checkpoints hold all of it."""

    policy: TrainState
    reference: Params | None = None  # if the algorithm needs one; in the type of computation
    learned: dict[str, TrainState] = flax.struct.field(default_factory=dict)  # by name: the algorithm's learned models

    @property
    def step(self) -> jax.Array:
        """Steps done: [] int32."""
        return self.policy.step

    def saved(self) -> tuple[Params, dict[str, Any]]:
        """The two parts of a checkpoint: the policy's weights, and all else."""
        params, rest = self.policy.saved()
        if self.reference is not None:
            rest["reference"] = self.reference
        if self.learned:
            rest["learned"] = {name: vars(model) for name, model in self.learned.items()}
        return params, rest

    def restored(self, params: Params, rest: dict[str, Any]) -> RLState:
        """The state that the two parts of a checkpoint hold."""
        learned = {name: TrainState(**fields) for name, fields in rest.get("learned", {}).items()}
        policy = TrainState(rest["step"], params, rest["opt_state"])
        return RLState(policy, rest.get("reference"), learned)

    def next_step(self) -> RLState:
        """The same state with one step more done."""
        learned = {name: model.next_step() for name, model in self.learned.items()}
        return dataclasses.replace(self, policy=self.policy.next_step(), learned=learned)

    def skipped_updates(self) -> jax.Array:
        """Updates of all models skipped so far because their gradient was not finite: [] int32."""
        models = (self.policy, *self.learned.values())
        return jnp.stack([model.skipped_updates() for model in models]).sum()


@program(static_argnames="model")  # one program for all weights
def copy_reference(params: Params, model: ModelConfig) -> Params:
    """A copy of the policy as the reference, in the type of computation; updates donate the policy's own arrays."""
    return jax.tree.map(jnp.copy, cast(params, model))


def rl_shapes(setup: StepSetup) -> RLState:
    """The RLState as ShapeDtypeStructs with shardings on the entered mesh."""
    mesh, model = entered_mesh(), setup.model
    policy = state_shapes(model, setup.config, setup.optimizer, mesh)
    reference = None
    if setup.config.algorithm.needs_reference:
        reference = jax.tree.map(
            lambda s, stored: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=stored.sharding),
            jax.eval_shape(partial(cast, config=model), policy.params),
            policy.params,
        )
    return RLState(policy, reference, {name: learner_shapes(one, mesh) for name, one in setup.learners.items()})


def init_rl_state(params: Params, setup: StepSetup, starts: Mapping[str, Params] = MappingProxyType({})) -> RLState:
    """The state before the first step.

    The policy and the reference start from ``params``, and so do the learned models that are not in ``starts``.
    """
    policy = init_state(params, setup.optimizer, rl_shapes(setup).policy)
    reference = copy_reference(policy.params, setup.model) if setup.config.algorithm.needs_reference else None
    mesh = entered_mesh()
    learned = {name: init_learner(params, one, mesh, starts.get(name)) for name, one in setup.learners.items()}
    return RLState(policy, reference, learned)
