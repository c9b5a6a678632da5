"""Reasoning RL: reinforcement learning with rule rewards, for R1-Zero, stage 2 of R1, and a student of distillation.

arXiv 2501.12948, sections 2.2 and 2.3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from r1jax.checkpoints.model import Model
from r1jax.data.formats.rows import preview
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.judge import routed_rewards
from r1jax.recipe.loading import load_model
from r1jax.recipe.starts import load_starts
from r1jax.rewards.config import VerifierConfig, parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.routing import check_kinds, parse_routes
from r1jax.rewards.scores import Scorer
from r1jax.rl.config import RLConfig, check_rules
from r1jax.rl.environment import Environment
from r1jax.rl.train import train_policy
from r1jax.sampling.processors import Sampling
from r1jax.sharding import Params
from r1jax.training.loop import SaveConfig
from r1jax.training.memory import peak_bytes
from r1jax.training.metrics import totals


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasoningRLSettings(ComputeOptions):
    """Settings of a stage of reinforcement learning; either ``rewards`` or ``routes`` is given."""

    rl: RLConfig
    problems: ProblemsConfig
    template: str
    sampling: Sampling
    rewards: tuple[str, ...] = ()  # NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT], for all problems
    routes: tuple[str, ...] = ()  # KIND,KIND: NAME[=WEIGHT] ..., by kind of problem
    verifier: VerifierConfig
    seed: int
    save: SaveConfig
    pad_to_held_out: bool = False  # whether prompts are padded to the longest held-out prompt, if that is longer

    def __post_init__(self) -> None:
        if not self.rl.algorithm.rules:
            return
        mixtures = [*parse_routes(self.routes).values()]
        if self.rewards:
            mixtures.append({spec.name: spec.weight for spec in parse_rewards(self.rewards)})
        for mixture in mixtures:
            check_rules(self.rl.algorithm, [name for name, weight in mixture.items() if weight > 0])


def reasoning_rl_stage(settings: ReasoningRLSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains the input "policy" by reinforcement learning on reasoning problems."""
    model = load_model(inputs["policy"], settings, settings.rl.param_dtype)
    problems = load_problems(settings.problems)
    padded_for = problems.held_out if settings.pad_to_held_out else ()
    with rule_rewards(settings.rewards, settings.routes, settings.verifier) as scorer:
        return train_with_rewards(settings, model, problems.train, scorer, inputs, folder, padded_for=padded_for)


def rule_rewards(
    rewards: tuple[str, ...], routes: tuple[str, ...], verifier: VerifierConfig
) -> AbstractContextManager[Scorer]:
    """The rewards of ``routes``, or ``rewards`` for all problems, with the worker processes that compute them."""
    if routes:
        return routed_rewards(routes, verifier)
    return RewardPool(parse_rewards(rewards), verifier.processes, verifier.deadline, verifier.code)


def train_with_rewards(
    settings: ReasoningRLSettings,
    model: Model,
    problems: Sequence[Problem],
    scorer: Scorer,
    inputs: Inputs,
    folder: Path,
    late_problems: Sequence[Problem] = (),
    late_from: int = -1,
    late_share: float = 0.5,
    padded_for: Sequence[Problem] = (),
    ended: Callable[[Params, int], bool] = lambda params, step: False,
) -> Figures:
    """RL on ``problems``, with a share of ``late_problems`` among them from step ``late_from`` on.

    inputs: of the stage; those with the name of a learned model are what it starts from (r1jax.recipe.starts).
    padded_for: problems that are not trained on, but whose prompts fit the padded width, too. The width changes no
    sample; it may change floating-point rounding.
    ended: as in r1jax.rl.train.train_policy.

    Figures: steps, tokens, seconds, and peak_bytes, the largest memory in use on a device since this process started,
    if the device reports it and training reached it.

    Raises UserError if a prompt and its completion do not fit the model's context, or an input the algorithm.
    """
    template = find_template(settings.template)
    if settings.routes:
        check_kinds((*problems, *late_problems), parse_routes(settings.routes))
    width = max(len(template.prompt_ids(p, model.tokenizer)) for p in (*problems, *late_problems, *padded_for))
    check_context(width, settings.sampling, model.config.context_length)
    environment = Environment(
        problems, template, scorer, settings.sampling, settings.seed, width, late_problems, late_from, late_share
    )
    starts = load_starts(settings.rl, model, inputs)
    before = peak_bytes()
    train_policy(model, environment, settings.rl, settings.save, folder, name=folder.name, starts=starts, ended=ended)
    after = peak_bytes()
    figures = {"steps": settings.rl.steps} | totals(folder, "tokens", "seconds")
    # The peak is that of the whole process: it is training's only if training has raised it.
    return figures | ({"peak_bytes": after} if after > before else {})


def check_context(width: int, sampling: Sampling, context: int, question: str = "") -> None:
    """Raises UserError if the longest prompt, of ``width`` tokens, and its completion are beyond the context.

    question: of the longest prompt, whose start is part of the message.
    """
    if width + sampling.max_tokens > context:
        raise UserError(
            f"the longest prompt{f' ({preview(question)})' if question else ''} has {width} tokens and "
            f"--sampling.max-tokens={sampling.max_tokens}: together they are beyond the model's context of {context}, "
            "so lower --sampling.max-tokens or leave out longer problems"
        )
