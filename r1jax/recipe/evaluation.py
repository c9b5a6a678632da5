"""Evaluation of a checkpoint on held-out reasoning problems and, in the whole recipe, on general prompts."""

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

SHOWN = 24  # completions that are kept, for the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneralPrompts:
    """The general prompts of an evaluation and their judges."""

    problems: ProblemsConfig
    template: str
    judges: tuple[str, ...]  # the judges that are models: inputs of these names
    functions: tuple[tuple[str, str], ...]  # the other judges: (name, FILE.py:FUNCTION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ComputeOptions):
    """Settings of an evaluation; the temperature of ``sampling`` is that of ``evaluation``."""

    evaluation: EvaluationConfig
    problems: ProblemsConfig
    template: str
    rewards: tuple[str, ...] = ()  # NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT]; none: accuracy, format and language
    general: GeneralPrompts | None = None
    sampling: Sampling
    weights: Dtype  # the type that the weights are loaded in
    verifier: VerifierConfig
    seed: int


def evaluation_stage(settings: EvaluationSettings, inputs: Inputs, folder: Path) -> Figures:
    """Evaluates the input "policy": figures and first completions for "reasoning" and, if it is asked for, "general".

    The samples of the two have random streams of their own, STAGE/reasoning and STAGE/general; with reasoning alone the
    stream is that of the stage.
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
        for judge, path in general.functions:  # a function has the column of the model that it replaces
            if (mean := rewards.get(path.rpartition(":")[2])) is not None:
                rewards[judge] = mean
    return figures | {"seconds": time.perf_counter() - began}


def _routes(problems: tuple[Problem, ...], judges: dict[str, str]) -> tuple[str, ...]:
    """Routes by which each kind of problem is judged by accuracy, and by its judge if that is among ``judges``."""
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
