"""The whole loop of reinforcement learning as one program: vmap over arms of a scan over steps.

An arm is a seed with values of the numbers that differ between arms. It computes what r1jax.rl.train.train_policy
computes with the same seed, stage and settings, up to the rounding of float32: the same problems, random keys, tokens,
rewards and updates. It leaves no files.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.ablation.answers import expected_answers
from r1jax.ablation.rewards import check_rewards, score
from r1jax.ablation.rollout import Problems, batch_of, collect, describe
from r1jax.ablation.sampler import ARMS, sample_together
from r1jax.ablation.spec import LoopSpec, check_algorithm, check_values, with_numbers
from r1jax.ablation.text import token_codes
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.kernels.platform import batched_kernels
from r1jax.rl.environment import Environment
from r1jax.rl.learned import make_learners
from r1jax.rl.metrics import Maxima
from r1jax.rl.setup import StepSetup
from r1jax.rl.state import RLState, copy_reference, init_rl_state, rl_shapes
from r1jax.rl.step import run_updates
from r1jax.rl.train import step_keys
from r1jax.sampling.queues import padded_prompts
from r1jax.sampling.slots import LENGTH
from r1jax.seeds import stage_key, stage_seed
from r1jax.sharding import entered_mesh
from r1jax.traced import enabled, replace
from r1jax.training.metrics import Metrics, merge
from r1jax.training.optimizer import build_optimizer

Values = Mapping[str, Any]  # name of a number -> [N]
_VALUE_NEEDED = (  # what JAX raises for Python or NumPy code that reads the value of an array in a program
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@flax.struct.dataclass
class ArmState:
    """The state of an arm; of all arms with a leading axis N."""

    rl: RLState
    seed: jax.Array  # [] int32


class Loop:
    """The program of many arms, from make_loop; it is compiled at the first run of each number of arms and steps."""

    def __init__(self, model: Model, problems: Problems, count: int, spec: LoopSpec) -> None:
        """problems: ``count`` to train on, and then the held-out ones."""
        self.spec = spec
        kernels = batched_kernels(model.config.kernels)
        self._model = dataclasses.replace(model, config=dataclasses.replace(model.config, kernels=kernels))
        self._problems, self._count = problems, count
        self._held_out = len(problems.prompts) - count
        self._ends = tuple(model.tokenizer.eos_ids)
        over_arms: Any = {"in_axes": (0, 0, 0, None, None), "axis_name": ARMS}
        # States that a checkpoint, ``start`` or the program itself gives have one sharding: another one would compile
        # the program again.
        self._sharding = NamedSharding(entered_mesh(), PartitionSpec())
        self._run = jax.jit(jax.vmap(self._steps, **over_arms), donate_argnums=0, out_shardings=self._sharding)
        self._compiled: dict[tuple[int, int], jax.stages.Compiled] = {}
        self._judge = jax.jit(jax.vmap(self._evaluate, in_axes=(0, 0, None), axis_name=ARMS))

    def start(self, values: Values, seeds: Sequence[int] | np.ndarray) -> ArmState:
        """The states of all arms before the first step, from the weights of the model, which are kept.

        values: of each name in spec.varied, a number for each arm. Raises UserError for values that a setting refuses.
        """
        arrays = check_values(self.spec, values, len(seeds))
        one = {name: jnp.asarray(array[0]) for name, array in arrays.items()}
        # Only the seeds of stochastic rounding differ between the states of arms.
        each = self.spec.rl.rounding == "stochastic"
        states = [self._first_state(one, int(seed)) for seed in (seeds if each else seeds[:1])]
        N = len(seeds)

        @jax.jit
        def of_all_arms(*states: RLState) -> RLState:
            return jax.tree.map(lambda *x: jnp.stack(x) if each else jnp.broadcast_to(x[0], (N, *x[0].shape)), *states)

        rl = of_all_arms(*states)
        return jax.device_put(ArmState(rl, jnp.asarray(seeds, jnp.int32)), self._sharding)

    def run(
        self, states: ArmState, values: Values, first_step: int, steps: int
    ) -> tuple[ArmState, dict[str, jax.Array]]:
        """The states after ``steps`` more steps, and the metrics of each step: [N, steps]. Donates ``states``.

        values: as given to start. first_step: the steps that ``states`` have done.
        """
        seeds = np.asarray(states.seed)
        arrays = check_values(self.spec, values, len(seeds))
        asked = self._asked(seeds, first_step, steps)
        first = jnp.asarray(first_step, jnp.int32)
        return self._program(len(seeds), steps)(states, arrays, asked, first, self._problems)

    def evaluate(self, states: ArmState) -> dict[str, np.ndarray]:
        """Figures of each arm on the held-out problems: [N] each; "correct" is [N, problems, samples] bool.

        The samples are those of r1jax.evaluation.evaluate with the settings of spec.evaluation.
        """
        if not self._held_out:
            raise ValueError("there are no held-out problems to evaluate on")
        found = jax.device_get(self._judge(states.rl.policy.params, states.seed, self._problems))
        correct = found.pop("correct")
        return {name: np.asarray(value) for name, value in found.items()} | {"correct": correct}

    def bytes_of(self, arms: int, steps: int = 1) -> int:
        """Bytes of the arguments, results and temporary arrays of ``run`` for a number of arms and of steps."""
        found: Any = self._program(arms, steps).memory_analysis()
        results = found.output_size_in_bytes - found.alias_size_in_bytes  # donated states are results, too
        return found.argument_size_in_bytes + results + found.temp_size_in_bytes

    def _program(self, arms: int, steps: int) -> jax.stages.Compiled:
        """The program for a number of arms and of steps, compiled once."""
        if (arms, steps) not in self._compiled:
            with _refusing(self.spec):
                self._compiled[arms, steps] = self._run.lower(*self._shapes(arms, steps)).compile()
        return self._compiled[arms, steps]

    def _shapes(self, arms: int, steps: int = 1) -> tuple[Any, ...]:
        """The arguments of the program as ShapeDtypeStructs."""
        rl = self.spec.rl
        numbers = {name: jax.ShapeDtypeStruct((arms,), jnp.float32) for name in self.spec.varied}
        asked = jax.ShapeDtypeStruct((arms, steps, rl.algorithm.attempts, rl.prompts), jnp.int32)
        first = jax.ShapeDtypeStruct((), jnp.int32)
        one = rl_shapes(self._setup(with_numbers(self.spec, {name: jnp.float32(1) for name in self.spec.varied})))
        seed: Any = jax.ShapeDtypeStruct((), jnp.int32)
        states = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((arms, *x.shape), x.dtype, sharding=self._sharding), ArmState(one, seed)
        )
        return states, numbers, asked, first, self._problems

    def _first_state(self, values: dict[str, jax.Array], seed: int = 0) -> RLState:
        """The state of an arm before the first step."""
        return init_rl_state(self._model.params, self._setup(with_numbers(self.spec, values), seed))

    def _asked(self, seeds: np.ndarray, first_step: int, steps: int) -> np.ndarray:
        """The index of each problem that each step asks: [N, steps, attempts, P] int32."""
        rl = self.spec.rl
        attempts = rl.algorithm.attempts

        def of_seed(seed: int) -> list[Any]:
            environment = self._environment(seed)
            return [
                [environment.batch(step, rl.prompts, attempt, attempts) for attempt in range(attempts)]
                for step in range(first_step, first_step + steps)
            ]

        distinct = {seed: of_seed(seed) for seed in dict.fromkeys(seeds.tolist())}
        return np.array([distinct[seed] for seed in seeds.tolist()], np.int32)

    def _environment(self, seed: Any) -> Environment:
        indices = cast(Any, range(self._count))  # in place of the problems: a batch is then one of indices
        return Environment(
            indices, self.spec.template, cast(Any, None), self.spec.sampling, seed, 0, stage=self.spec.stage
        )

    def _setup(self, spec: LoopSpec, seed: int = 0) -> StepSetup:
        """The setup of an arm; ``seed`` matters for the first state only."""
        rl = spec.rl
        return StepSetup(
            config=rl,
            model=self._model.config,
            context=replace(rl.context(spec.sampling), in_place=False),
            optimizer=build_optimizer(rl, rl.steps * rl.updates, stage_seed(seed, spec.stage, "rounding")),
            learners=make_learners(rl, self._model.config, seed, spec.stage),
            longest=self._problems.prompts.shape[1] + spec.sampling.max_tokens,
            sample=cast(Any, None),  # the program has its own sampler and rewards
            score=cast(Any, None),
        )

    def _steps(
        self, state: ArmState, values: dict[str, jax.Array], asked: jax.Array, first: jax.Array, problems: Problems
    ) -> tuple[ArmState, dict[str, jax.Array]]:
        """One arm's scan over steps."""
        spec = with_numbers(self.spec, values)
        setup = self._setup(spec)

        def step(state: ArmState, of_step: tuple[jax.Array, jax.Array]) -> tuple[ArmState, dict[str, jax.Array]]:
            number, indices = of_step
            rl, keys = state.rl, step_keys(self._environment(state.seed), number)
            rl = _replace_reference(rl, number, setup)
            groups, figures = collect(rl.policy.params, indices, keys.samples, problems, spec, setup.model, self._ends)
            algorithm: Any = spec.rl.algorithm  # its methods are declared for arrays of NumPy
            advantages = algorithm.advantages(groups.totals, jnp.zeros(spec.rl.prompts), groups.kept)
            rl, sums, maxima, _ = run_updates(rl, batch_of(groups, advantages, problems, spec), keys.minibatches, setup)
            row = describe(groups, advantages, problems, spec) | figures | _reduce(sums, maxima)
            rl = rl.next_step()
            row["skipped_updates"] = rl.skipped_updates()
            return ArmState(rl, state.seed), {name: jnp.asarray(x, jnp.float32) for name, x in row.items()}

        return jax.lax.scan(step, state, (first + jnp.arange(len(asked)), asked))

    def _evaluate(self, params: Any, seed: jax.Array, problems: Problems) -> dict[str, jax.Array]:
        """One arm's figures on the held-out problems, of which a training step's number of sequences at a time."""
        how, n = self.spec.evaluation, self.spec.evaluation.samples
        count, start = self._held_out, self._count
        sampling = dataclasses.replace(self.spec.sampling, temperature=how.temperature)
        key = stage_key(seed, how.name, "samples")
        names = ["accuracy", "format"]
        part = max(1, min(count, self.spec.rl.sequences // n))
        parts = -(-count // part)

        def one(number: jax.Array) -> dict[str, jax.Array]:
            index = jnp.minimum(number * part + jnp.arange(part), count - 1)
            ids = (index[:, None] * n + jnp.arange(n)).reshape(-1).astype(jnp.int32)
            prompts, lengths = problems.prompts[start + index], problems.prompt_lengths[start + index]
            samples = sample_together(params, prompts, lengths, ids, key, self._model.config, sampling, self._ends)
            rows = jnp.repeat(start + index, n)
            expected = jax.tree.map(lambda x: x[rows], problems.expected)
            rewards = score(samples, expected, problems.tokens, self.spec.template, names)
            judged = {name: rewards[:, i] for i, name in enumerate(names)}
            judged |= {"length_mean": samples.lengths, "truncated_share": samples.finish == LENGTH}
            return {name: x.reshape(part, n) for name, x in judged.items()}

        found = jax.lax.map(one, jnp.arange(parts))
        found = {name: x.reshape(parts * part, n)[:count] for name, x in found.items()}
        return {name: x.mean() for name, x in found.items()} | {"correct": found["accuracy"] > 0}


def make_loop(model: Model, problems: Sequence[Problem], spec: LoopSpec, held_out: Sequence[Problem] = ()) -> Loop:
    """The program of arms that train ``model`` on ``problems`` and are evaluated on the held-out ones.

    Raises:
      UserError: for rewards, templates, checkers, answers and tokenizers that have no form inside a program, for an
        algorithm whose rewards or models are missing (check_algorithm), and for prompts beyond the model's context.
    """
    check_rewards(spec.rewards, spec.template)
    check_algorithm(spec)
    everything = (*problems, *held_out)
    prompts = [spec.template.prompt_ids(problem, model.tokenizer) for problem in everything]
    width, limit = max(map(len, prompts)), spec.sampling.max_tokens
    if width + limit > model.config.context_length:
        raise UserError(
            f"the longest prompt has {width} tokens and sampling.max-tokens={limit}: together they are beyond the "
            f"model's context of {model.config.context_length}"
        )
    kinds = tuple(sorted({problem.kind for problem in problems}))
    arrays = Problems(
        prompts=jnp.asarray(padded_prompts(prompts, width)),
        prompt_lengths=jnp.asarray([len(prompt) for prompt in prompts], jnp.int32),
        expected=expected_answers(everything),
        kind=jnp.asarray([kinds.index(p.kind) if p.kind in kinds else -1 for p in everything], jnp.int32),
        tokens=token_codes(spec.template, model.tokenizer, model.config.vocab_size),
        kinds=kinds,
        shortest=min(map(len, prompts)),
    )
    return Loop(model, arrays, len(problems), spec)


@contextlib.contextmanager
def _refusing(spec: LoopSpec) -> Iterator[None]:
    """Raises UserError if a method of the algorithm needs values that are known only when the program runs."""
    try:
        yield
    except _VALUE_NEEDED as error:
        text = f"algorithm {type(spec.rl.algorithm).__name__} has no form in an ablation's program"
        if not spec.varied:
            raise UserError(f"{text}: train with the ordinary loop") from error
        raise UserError(
            f"{text} with {list(spec.varied)} as numbers that differ between arms: give these numbers one value, or "
            "train with the ordinary loop"
        ) from error


def _replace_reference(rl: RLState, step: jax.Array, setup: StepSetup) -> RLState:
    """The state with the policy as its reference at every reference_every-th step."""
    every: Any = setup.config.reference_every
    if rl.reference is None or not enabled(every):
        return rl
    every = jnp.asarray(every, jnp.int32)
    due = (every > 0) & (step > 0) & (step % jnp.maximum(every, 1) == 0)
    new = copy_reference(rl.policy.params, setup.model)
    return dataclasses.replace(rl, reference=jax.tree.map(lambda a, b: jnp.where(due, a, b), new, rl.reference))


def _reduce(sums: Sequence[Metrics], maxima: Sequence[Maxima]) -> dict[str, jax.Array]:
    """r1jax.rl.metrics.reduce_updates inside a program."""
    means = {name: value / weight for name, (value, weight) in merge(sums).items()}  # 0 / 0 is nan, as there
    names = {name for one in maxima for name in one}
    return means | {n: jnp.stack([one[n] for one in maxima if n in one]).max() for n in sorted(names)}
