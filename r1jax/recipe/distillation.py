"""Distillation by distribution: a student learns the teacher's next-token distributions on samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from r1jax.algorithms.kl import Direction, kl_sum
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import write_model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.schedule import problem_batch, warn_of_repeats
from r1jax.data.text.template import Template, find_template
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.models.transformer import hidden_states, prepare, unembedding
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.loading import load_model
from r1jax.rl.batch import build_batch
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key, stage_seed
from r1jax.settings import may_change
from r1jax.sharding import Params, entered_mesh
from r1jax.tokenizer import Tokenizer
from r1jax.tokenizer.base import same_vocabulary
from r1jax.training.balance import expert_load, with_balance_loss
from r1jax.training.gradients import accumulate
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.metrics import Metrics, reduce_metrics, totals
from r1jax.training.optimizer import OptimizerConfig, make_optimizer, warn_of_rounding
from r1jax.training.state import TrainState, apply_gradients, init_state, state_shapes


@dataclasses.dataclass(frozen=True)
class MatchConfig(OptimizerConfig):
    """Generalised knowledge distillation (arXiv 2306.13649)."""

    steps: int = 100
    """The number of updates, each on new samples; 0 leaves this stage out."""
    prompts: int = 32
    """Problems per update."""
    samples: int = 4
    """Samples per problem."""
    microbatch: int = may_change(0)
    """Sequences per backward pass, over all devices; 0: all sequences of an update."""
    direction: Direction = "reverse"
    """forward: KL(teacher, student), covers the teacher's modes; reverse: KL(student, teacher), seeks them."""
    source: Literal["student", "teacher"] = "student"
    """The model whose samples the distributions are compared on: student or teacher."""
    logprob_chunk: int = may_change(2048)
    """The number of tokens whose logits are in memory at one time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or min(self.prompts, self.samples, self.logprob_chunk) < 1:
            raise UserError("match: prompts, samples and logprob-chunk must be at least 1 and steps at least 0")
        if self.microbatch < 0 or self.sequences % self.microbatch_size:
            raise UserError(f"match.microbatch={self.microbatch} does not divide the {self.sequences} sequences")

    @property
    def sequences(self) -> int:
        """Sequences per update."""
        return self.prompts * self.samples

    @property
    def microbatch_size(self) -> int:
        """Sequences per backward pass."""
        return self.microbatch or self.sequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchSettings(ComputeOptions):
    """Settings of a stage of distillation by distribution."""

    match: MatchConfig
    problems: ProblemsConfig
    template: str
    sampling: Sampling
    seed: int
    save: SaveConfig


def check_vocabularies(student: Tokenizer, teacher: Tokenizer) -> None:
    """Raises UserError unless both tokenizers decode every id to the same text and have the same end tokens."""
    if student.eos_ids != teacher.eos_ids or not same_vocabulary(student, teacher):
        raise UserError(
            "the student and the teacher have different vocabularies, so their distributions cannot be matched: set "
            "--match.steps=0"
        )


def match_sums(
    params: Params,
    batch: Any,
    teacher: Params,
    configs: tuple[ModelConfig, ModelConfig],
    config: MatchConfig,
    temperature: float,
) -> tuple[jax.Array, tuple[jax.Array, Metrics, jax.Array | None]]:
    """KL divergence summed over the completion tokens; their count, metrics, and the load of the student's experts.

    The sum includes the balance loss of experts, if it has a weight; the metric "kl" does not.
    configs: the student's, the teacher's.
    """
    tokens, mask = batch
    own, extras = hidden_states(params, tokens[:, :-1], configs[0])
    other, _ = hidden_states(teacher, tokens[:, :-1], configs[1])
    # A model may have more rows of embeddings than the tokenizer has ids.
    size = min(configs[0].vocab_size, configs[1].vocab_size)
    pair = [
        (h, unembedding(w, c)[:, :size].astype(h.dtype))
        for h, w, c in ((own, params, configs[0]), (other, teacher, configs[1]))
    ]
    total = kl_sum(pair[0], pair[1], mask, config.direction, temperature, config.logprob_chunk)
    balanced, metrics = with_balance_loss(jnp.zeros(mask.shape), extras, mask, configs[0], config.balance)
    count = mask.sum().astype(jnp.float32)
    metrics |= {"kl": (jax.lax.stop_gradient(total), count)}
    if config.balance_loss:
        total = total + jnp.where(mask, balanced, 0.0).sum()
    return total, (count, metrics, expert_load(extras, mask))


@partial(
    jax.jit, static_argnames=("optimizer", "configs", "config", "temperature", "microbatches"), donate_argnames="state"
)
def _update(
    state: TrainState,
    batch: Any,
    teacher: Params,
    optimizer: optax.GradientTransformation,
    configs: tuple[ModelConfig, ModelConfig],
    config: MatchConfig,
    temperature: float,
    microbatches: int,
) -> tuple[TrainState, Metrics]:
    """The student's state after one update towards the teacher on a batch; arguments as in match_sums."""
    params, teacher = prepare(state.params, configs[0]), prepare(teacher, configs[1])

    def part_sums(params: Params, part: Any, teacher: Params) -> Any:
        return match_sums(params, part, teacher, configs, config, temperature)

    (grads, count), found = accumulate(part_sums, params, batch, microbatches, configs[0], whole=(teacher,))
    sums, load = jax.tree.map(lambda x: x.sum(axis=0), found)
    state, metrics = apply_gradients(state, grads, count, optimizer, configs[0], load, config.router_bias_speed)
    return state, sums | metrics


def match(
    student: Model,
    teacher: Model,
    problems: Sequence[Problem],
    template: Template,
    sampling: Sampling,
    config: MatchConfig,
    save: SaveConfig,
    seed: int,
    folder: Path,
    name: str = "match",
) -> tuple[Model, dict[str, Any]]:
    """Trains the student towards the teacher's distribution; returns the student and the figures of the stage.

    Writes checkpoints and metrics to ``folder`` and resumes from them. A step depends only on the parameters, the seed,
    ``name`` and its number. Frees the weights of ``student``. Without an entered mesh it runs on one device.

    Raises:
      UserError: if the two have different vocabularies.
      Stopped: on Ctrl-C and SIGTERM, after the state is saved.
    """
    check_vocabularies(student.tokenizer, teacher.tokenizer)
    warn_of_repeats(problems, config.prompts, "match.prompts")
    warn_of_rounding(config, "match")
    optimizer = make_optimizer(config, config.steps, stage_seed(seed, name, "rounding"))
    shapes = state_shapes(student.config, config, optimizer, entered_mesh())
    width = max(len(template.prompt_ids(problem, student.tokenizer)) for problem in problems)
    microbatches = config.sequences // config.microbatch_size
    write_model(folder, student.config, student.tokenizer)

    def step_fn(state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        began = time.perf_counter()
        own = config.source == "student"
        prompts = [
            template.prompt_ids(problem, student.tokenizer)
            for problem in problem_batch(problems, step, config.prompts, stage_seed(seed, name, "problems"))
        ]
        key = jax.random.fold_in(stage_key(seed, name, "samples"), step)
        samples = jax.device_get(
            sample(
                state.params if own else teacher.params,
                prompts,
                student.config if own else teacher.config,
                key,
                sampling=sampling,
                end_tokens=student.tokenizer.eos_ids,
                samples_per_prompt=config.samples,
                prompt_width=width,
            )
        )
        repeated = [prompt for prompt in prompts for _ in range(config.samples)]
        batch = build_batch(repeated, samples, width + sampling.max_tokens)
        state, metrics = _update(
            state,
            (batch.tokens, batch.mask),
            teacher.params,
            optimizer,
            (student.config, teacher.config),
            config,
            sampling.policy_temperature,
            microbatches,
        )
        tokens = float(samples.lengths.sum())
        row = reduce_metrics(metrics) | {"tokens": tokens, "length_mean": tokens / config.sequences}
        return state, row | {"tokens_per_second": tokens / (time.perf_counter() - began)}

    with TrainingLoop(folder, name, config.steps, save) as loop:
        state = loop.start(shapes, lambda: init_state(student.params, optimizer, shapes), student.params)
        state = loop.fit(state, step_fn)
    figures = {"steps": config.steps} | totals(folder, "tokens", "seconds")
    return dataclasses.replace(student, params=state.params), figures


def match_stage(settings: MatchSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains the input "policy" towards the next-token distribution of the input "teacher"."""
    student = load_model(inputs["policy"], settings, settings.match.param_dtype)
    teacher = load_model(inputs["teacher"], settings, settings.dtype)
    return match(
        student,
        teacher,
        load_problems(settings.problems).train,
        find_template(settings.template),
        settings.sampling,
        settings.match,
        settings.save,
        settings.seed,
        folder,
        name=folder.name,
    )[1]
