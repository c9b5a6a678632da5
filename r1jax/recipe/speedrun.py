"""The stages of a speedrun: RL against the clock until an evaluation passes a target, and the measurement of a model.

The clock runs from the moment when the weights are in memory; compilation and the evaluations on the way count.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from r1jax.checkpoints.model import Model
from r1jax.data.problems import gym
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.disk import write_whole
from r1jax.evaluation.clusters import cluster_interval
from r1jax.evaluation.estimators import bootstrap_intervals
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.folders import ON_THE_WAY
from r1jax.recipe.loading import Dtype, load_model
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, rule_rewards, train_with_rewards
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.scores import Scorer
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment, sample_groups, score_groups
from r1jax.sampling.memory import choose_slots
from r1jax.sampling.processors import Sampling
from r1jax.seeds import stage_key
from r1jax.settings import may_change, may_rise
from r1jax.sharding import Params

CLOCK = "clock.json"  # in the folder of the stage: seconds so far, and how often it was started
_BOOTSTRAP_SEED = 0  # the same resamples of the problems in every run

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedrunSettings(ReasoningRLSettings):
    """Settings of the timed training; the held-out problems of ``problems`` are those of the evaluations on the way."""

    target: float = may_rise(0.17)
    minutes: float = may_rise(15.0)
    every: int = may_change(10)  # steps between evaluations
    evaluation: EvaluationConfig
    evaluation_sampling: Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureSettings(ComputeOptions):
    """Settings of the measurement of a model on held-out problems and on the transfer set."""

    evaluation: EvaluationConfig
    problems: ProblemsConfig
    transfer: ProblemsConfig
    template: str
    rewards: tuple[str, ...]
    sampling: Sampling
    weights: Dtype
    verifier: VerifierConfig
    seed: int
    shown: int  # completions among the figures


class Clock:
    """Seconds since the stage was first started, kept in its folder so that a resumed run does not begin at 0.

    The seconds between the last call of ``keep`` and a kill are lost, so the time of a resumed run is no record.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CLOCK
        stored = json.loads(self._path.read_text()) if self._path.exists() else {"starts": 0, "seconds": 0.0}
        self.starts, self._before = stored["starts"] + 1, stored["seconds"]
        self._began = time.perf_counter()
        self.keep()

    def seconds(self) -> float:
        """Seconds on the clock."""
        return self._before + time.perf_counter() - self._began

    def keep(self) -> None:
        """Writes the seconds to disk."""
        write_whole(self._path, json.dumps({"starts": self.starts, "seconds": self.seconds()}) + "\n")


class HeldOutEvaluation:
    """Evaluates a policy on the same held-out problems with fresh samples each time."""

    def __init__(
        self, settings: SpeedrunSettings, model: Model, problems: Sequence[Problem], scorer: Scorer, stage: str
    ) -> None:
        config, template = settings.evaluation, find_template(settings.template)
        self._problems = problems[: config.problems]
        sampling = dataclasses.replace(settings.evaluation_sampling, temperature=config.temperature)
        width = max(len(template.prompt_ids(problem, model.tokenizer)) for problem in self._problems)
        self._model, self._key = model, stage_key(settings.seed, stage, "evaluation")
        self._shape = RLConfig(prompts=len(self._problems), group=config.samples)
        self._environment = Environment(self._problems, template, scorer, sampling, settings.seed, width)
        self._slots = 0  # not chosen yet

    def __call__(self, params: Params, step: int) -> Row:
        """pass@1 with its 95% interval (bootstrap over problems), format_rate, mean_length and truncated_share."""
        if not self._slots:  # chosen once: each number of slots compiles another program
            self._slots = choose_slots(
                self._model.config,
                self._environment.sampling,
                params,
                prompts=self._shape.prompts,
                width=self._environment.prompt_width,
                sequences=self._shape.sequences,
            )
            sampling = dataclasses.replace(self._environment.sampling, slots=self._slots)
            self._environment = dataclasses.replace(self._environment, sampling=sampling)
        draw = sample_groups(self._model, self._environment, self._shape)
        score = score_groups(self._model, self._environment, self._shape)
        _, samples = draw(params, self._problems, jax.random.fold_in(self._key, step), 0)
        completions, scores = score(self._problems, samples)
        correct = scores.correct.reshape(len(self._problems), -1).mean(1)
        low, high = pass_at_1_interval(correct)
        return {
            "pass_at_1": float(correct.mean()),
            "low": low,
            "high": high,
            "format_rate": float(np.mean([self._environment.template.well_formed(c.text) for c in completions])),
            "mean_length": float(np.mean([c.tokens for c in completions])),
            "truncated_share": float(np.mean([not c.finished for c in completions])),
        }


def pass_at_1_interval(correct: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval, over problems, of the mean of the shares of right samples [P]; (0, 1) if P is 1."""
    return bootstrap_intervals({"pass_at_1": correct}, _BOOTSTRAP_SEED)["pass_at_1"] or (0.0, 1.0)


def speedrun_stage(settings: SpeedrunSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains the input "policy" until an evaluation passes the target, the time is over, or all steps are done.

    An evaluation passes if the lower end of the 95% interval of pass@1 is at least settings.target. It is made after
    every settings.every steps, and at the end. Figures: reached, seconds on the clock when the last evaluation ended,
    steps, starts (above 1: the run was resumed), and those of train_with_rewards.
    """
    problems = load_problems(settings.problems)
    folder.mkdir(parents=True, exist_ok=True)
    with rule_rewards(settings.rewards, settings.routes, settings.verifier) as scorer:
        model = load_model(inputs["policy"], settings, settings.rl.param_dtype)
        jax.block_until_ready(model.params)
        clock = Clock(folder)
        held_out = HeldOutEvaluation(settings, model, problems.held_out, scorer, folder.name)
        path = folder / ON_THE_WAY
        rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

        def ended(params: Params, step: int) -> bool:
            while rows and rows[-1]["step"] > step:  # of steps after the checkpoint, which are computed again
                rows.pop()
            if not step:
                return False  # there is no checkpoint yet
            over = clock.seconds() >= 60 * settings.minutes
            due = over or step % settings.every == 0 or step == settings.rl.steps
            if due and not (rows and rows[-1]["step"] == step):
                row = held_out(params, step)
                rows.append({"step": step, "seconds": clock.seconds(), **row})
                write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
                clock.keep()
            return over or passes(rows, settings.target)

        figures = train_with_rewards(
            settings, model, problems.train, scorer, inputs, folder, padded_for=problems.held_out, ended=ended
        )
    last = rows[-1]
    return figures | {
        "reached": passes(rows, settings.target),
        "steps": last["step"],
        "clock_seconds": last["seconds"],
        "starts": clock.starts,
    }


def passes(rows: Sequence[Row], target: float) -> bool:
    """True if the last evaluation passes the target."""
    return bool(rows) and rows[-1]["low"] >= target


def measure_stage(settings: MeasureSettings, inputs: Inputs, folder: Path) -> Figures:
    """Evaluates the input "policy" on other problems of the held-out templates and on the transfer set.

    Figures: for each of "held_out" and "transfer" the evaluation and the first completions; over_templates, the 95%
    interval of held-out pass@1 over templates instead of problems, or None without templates; and seconds.
    """
    began = time.perf_counter()
    # The clock is stopped, so compiled programs of earlier processes may be used.
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()  # else jax keeps its decision not to use the cache
    model = load_model(inputs["policy"], settings, settings.weights)
    sets = {
        "held_out": load_problems(settings.problems).held_out,
        "transfer": load_problems(settings.transfer, "--task.transfer").held_out,
    }
    figures: Figures = {}
    with rule_rewards(settings.rewards, (), settings.verifier) as scorer:
        for name, problems in sets.items():
            evaluation, judged = evaluate(
                model,
                problems,
                find_template(settings.template),
                scorer,
                settings.sampling,
                settings.evaluation,
                settings.seed,
                f"{folder.name}/{name}",
            )
            figures[name] = dataclasses.asdict(evaluation)
            figures[f"{name}_completions"] = [dataclasses.asdict(one) for one in judged[: settings.shown]]
            if name == "held_out":
                figures["over_templates"] = _over_templates(problems, evaluation.by_problem["pass_at_1"])
    return figures | {"seconds": time.perf_counter() - began}


def _over_templates(problems: Sequence[Problem], correct: Sequence[float]) -> tuple[float, float] | None:
    templates = [gym.template_of(p.metadata) if p.checker == "gym" else "" for p in problems[: len(correct)]]
    return cluster_interval(np.asarray(correct), templates, _BOOTSTRAP_SEED) if all(templates) else None
