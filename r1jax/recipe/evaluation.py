"""Evaluation of a checkpoint on held-out reasoning problems and, in the recipe, on held-out general prompts."""

from __future__ import annotations

import dataclasses
import time
from contextlib import AbstractContextManager
from pathlib import Path

from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.judge import judge_of, load_judges, routed_rewards
from r1jax.recipe.loading import Dtype, load_model
from r1jax.recipe.reasoning_rl import rule_rewards
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.scores import Scorer
from r1jax.sampling.processors import Sampling

SHOWN = 24  # the number of completions among the figures, for the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneralPrompts:
    """The general prompts of an evaluation and their judges."""

    problems: ProblemsConfig
    template: str
    judges: tuple[str, ...]  # the judges that are reward models, which are inputs with these names
    functions: tuple[tuple[str, str], ...]  # the other judges: (name, FILE.py:FUNCTION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ComputeOptions):
    """Settings of an evaluation; the temperature of ``sampling`` is that of ``evaluation``."""

    evaluation: EvaluationConfig
    problems: ProblemsConfig
    template: str
    rewards: tuple[str, ...] = ()  # NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT]; (): accuracy, format and language
    general: GeneralPrompts | None = None
    sampling: Sampling
    weights: Dtype  # the type that the weights are loaded in
    verifier: VerifierConfig
    seed: int


def evaluation_stage(settings: EvaluationSettings, inputs: Inputs, folder: Path) -> Figures:
    """Evaluates the input "policy" on reasoning problems and, if settings.general is given, on general prompts.

    Figures: for each of "reasoning" and "general" the evaluation and the first completions, and seconds. The random
    streams are STAGE/reasoning and STAGE/general, or STAGE if there are no general prompts.
    """
    began = time.perf_counter()
    model = load_model(inputs["policy"], settings, settings.weights)
    problems = load_problems(settings.problems).held_out[: settings.evaluation.problems]
    routes = () if settings.rewards else _routes(problems, {})
    scorer = rule_rewards(settings.rewards, routes, settings.verifier)
    stream = f"{folder.name}/reasoning" if settings.general else folder.name
    figures = _evaluate_on("reasoning", settings, model, settings.template, problems, scorer, stream)
    if (general := settings.general) is not None:
        problems = load_problems(general.problems).held_out[: settings.evaluation.problems]
        routes = _routes(problems, {name: name for name in general.judges} | dict(general.functions))
        scorer = routed_rewards(routes, settings.verifier, load_judges(general.judges, inputs, settings))
        figures |= _evaluate_on(
            "general", settings, model, general.template, problems, scorer, f"{folder.name}/general"
        )
        rewards = figures["general"]["rewards"]
        for judge, path in general.functions:  # the report has one column per judge
            if (mean := rewards.get(path.rpartition(":")[2])) is not None:
                rewards[judge] = mean
    return figures | {"seconds": time.perf_counter() - began}


def _routes(problems: tuple[Problem, ...], judges: dict[str, str]) -> tuple[str, ...]:
    """Reward routes: accuracy for each kind of problem, and the judge of the kind if it is among ``judges``."""
    kinds = sorted({problem.kind for problem in problems})
    return tuple(f"{kind}: accuracy {judges.get(judge_of(kind), '')}" for kind in kinds)


def _evaluate_on(
    name: str,
    settings: EvaluationSettings,
    model: Model,
    template: str,
    problems: tuple[Problem, ...],
    rewards: AbstractContextManager[Scorer],
    stream: str,
) -> Figures:
    with rewards as scorer:
        evaluation, judged = evaluate(
            model,
            problems,
            find_template(template),
            scorer,
            settings.sampling,
            settings.evaluation,
            settings.seed,
            stream,
        )
    completions = [dataclasses.asdict(one) for one in judged[:SHOWN]]
    return {name: dataclasses.asdict(evaluation), f"{name}_completions": completions}
