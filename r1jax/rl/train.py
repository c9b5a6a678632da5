"""Training of a policy: the loop around r1jax.rl.step."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jax

from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import write_model
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.schedule import warn_of_repeats
from r1jax.rl.ahead import compile_while_sampling
from r1jax.rl.config import RLConfig, check_rules, warn_without_effect
from r1jax.rl.environment import Environment, sample_groups
from r1jax.rl.metrics import describe, excerpt, first_of_groups
from r1jax.rl.setup import make_setup
from r1jax.rl.state import RLState, init_rl_state, rl_shapes
from r1jax.rl.step import StepKeys, rl_step
from r1jax.sampling.memory import choose_slots
from r1jax.seeds import stage_key
from r1jax.sharding import Params
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.optimizer import warn_of_rounding
from r1jax.training.stopwatch import Stopwatch

_FIRST_CHECKED = 16  # problems whose answers are checked while the first rollout is compiled


def train_policy(
    model: Model,
    environment: Environment,
    config: RLConfig,
    save: SaveConfig,
    folder: Path,
    log_samples: int = 4,
    name: str = "r1-zero",
    starts: Mapping[str, Params] = MappingProxyType({}),
    ended: Callable[[Params, int], bool] = lambda params, step: False,
) -> Model:
    """Trains ``model`` on the environment's problems and leaves checkpoints, metrics and completions in ``folder``.

    Resumes from the newest checkpoint there. ``name`` is shown beside the progress bar and separates the random numbers
    of the stages of a recipe, so it differs between them. ``starts`` holds the weights that learned models of the
    algorithm start from, by name, if not from the policy's. The weights of ``model`` and ``starts`` are freed: training
    has copies of its own. ``ended`` is called with the policy's weights and the number of steps done, before the first
    step and after each one; training ends early if it returns True. Without an entered mesh it runs on one device.

    Raises:
      UserError: if the algorithm needs a reward that the environment does not have.
      Stopped: on Ctrl-C and SIGTERM, when all is saved.
    """
    warn_without_effect(config)
    check_rules(config.algorithm, environment.pool.names)
    warn_of_rounding(config, "rl")
    _warn_of_repeats(environment, config)
    environment = dataclasses.replace(environment, stage=name)
    setup = make_setup(model, environment, config)
    write_model(folder, model.config, model.tokenizer)
    with TrainingLoop(folder, name, config.steps, save, save.keep_best) as loop:
        initial = partial(init_rl_state, model.params, setup, starts)
        state = loop.start(rl_shapes(setup), initial, (model.params, dict(starts)))
        # Chosen once: free memory changes from step to step, and each number of slots compiles another program.
        slots = choose_slots(
            model.config,
            environment.sampling,
            state.policy.params,
            prompts=config.prompts,
            width=environment.prompt_width,
            sequences=config.sequences,
            keep_routing=config.replay_routing,
        )
        with_slots = dataclasses.replace(environment, sampling=dataclasses.replace(environment.sampling, slots=slots))

        def prompt_ids(problem: Problem) -> list[int]:
            return environment.template.prompt_ids(problem, model.tokenizer)

        sample = compile_while_sampling(sample_groups(model, with_slots, config), state, setup, prompt_ids)
        watch = Stopwatch()
        setup = dataclasses.replace(setup, sample=sample, timed=watch.timed)

        def step_fn(state: RLState, step: int) -> tuple[RLState, dict[str, float]]:
            began = time.perf_counter()
            attempts = config.algorithm.attempts
            problems = [environment.batch(step, config.prompts, attempt, attempts) for attempt in range(attempts)]
            state, result = rl_step(state, problems, step_keys(environment, step), setup)
            rollout, names = result.rollout, result.rollout.names
            if not rollout.counts.all():
                _warn_of_unfilled(config)
            whole, seconds = time.perf_counter() - began, watch.take()
            values = jax.device_get(first_of_groups(result.token_values, config.group, log_samples))
            counted = rollout.counted(config.algorithm)[:: config.group]
            shown = min(log_samples, config.prompts)
            completions = excerpt(
                [rollout.groups.group(i) for i in range(shown)], names, model.tokenizer, values, counted
            )
            loop.writer.write_completions(step, completions)
            row = (
                describe(rollout, result.advantages, names)
                | result.metrics
                | {
                    "tokens": float(rollout.tokens),
                    "tokens_per_second": rollout.tokens / whole,
                    "seconds_sampling": seconds["sampling"],
                    "seconds_rewards": seconds["rewards"],
                    "seconds_update": whole - seconds["sampling"] - seconds["rewards"],
                }
            )
            # Without sampling and updates, from their start to their results: devices are idle in this time, unless
            # they compute the log-probabilities of a reference meanwhile.
            row["seconds_host"] = time.perf_counter() - began - seconds["sampling"] - seconds["updates"]
            return state, row

        # The first answer that a worker checks makes it load the checker's libraries, which takes seconds. The values
        # are not needed, and an error of a worker is raised by the first score.
        first = environment.problems[:_FIRST_CHECKED]
        with ThreadPoolExecutor(1) as thread:
            thread.submit(environment.pool.check, first, [problem.answer for problem in first])
            state = loop.fit(state, step_fn, lambda state: ended(state.policy.params, int(state.step)))
    return dataclasses.replace(model, params=state.policy.params)


def step_keys(environment: Environment, step: int | jax.Array) -> StepKeys:
    """The random keys of a step, which depend on the environment's seed and stage and on the step alone."""

    def key(use: str) -> jax.Array:
        return jax.random.fold_in(stage_key(environment.seed, environment.stage, use), step)

    return StepKeys(samples=key("samples"), minibatches=key("minibatches"))


def _warn_of_unfilled(config: RLConfig) -> None:
    """Warns that a step learns from fewer groups than rl.prompts, in the same words each time: printed once."""
    warnings.warn(
        f"a step found fewer than rl.prompts={config.prompts} groups to learn from in {config.algorithm.attempts} "
        "attempts at sampling, so its batch is not full (unfilled_share in metrics.jsonl): raise rl.max-resamples, or "
        "choose problems that are neither too easy nor too hard",
        stacklevel=2,
    )


def _warn_of_repeats(environment: Environment, config: RLConfig) -> None:
    late = environment.late_prompts(config.prompts)
    if not late or environment.late_from:
        warn_of_repeats(environment.problems, config.prompts, "rl.prompts")
    if late:
        warn_of_repeats(environment.late_problems, late, "rl.prompts or the share of late problems")
