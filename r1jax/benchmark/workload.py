"""The workload of the benchmarks: a GRPO step with random weights of real shapes.

Tokens of prompts and samples have the frequencies of natural text (Zipf's law), so that operations on repeated tokens
cost the same as in training.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.load import read_config, short_name
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions, ModelConfig, with_compute_options
from r1jax.models.layers import runs
from r1jax.models.shapes import SHAPES, first_layers
from r1jax.models.transformer import param_specs
from r1jax.rewards.scores import Scorer
from r1jax.rl.ahead import compile_while_sampling
from r1jax.rl.batch import Batch, build_batch, minibatches
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.rollouts import Rollout, collect
from r1jax.rl.setup import make_setup
from r1jax.rl.state import RLState, copy_reference, rl_shapes
from r1jax.rl.step import StepKeys, batch_of, learn, rl_step
from r1jax.rl.update import update
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key
from r1jax.sharding import Params, init_params
from r1jax.tokenizer import Rendered
from r1jax.training.state import init_state
from r1jax.training.stopwatch import Stopwatch


@dataclasses.dataclass(frozen=True)
class Workload(ComputeOptions):
    """Model, batch and compute options of a GRPO step."""

    model: str = "qwen2.5-0.5b"
    """Use a model of this architecture with random weights: tiny, tiny-moe, smollm2, qwen2.5-0.5b, qwen2.5-1.5b,
    qwen2.5-7b, llama-3.1-8b, moe-16b, deepseek-v3, deepseek-v3-2layers, or that of a checkpoint at this path."""
    layers: int = 0
    """Keep only the first layers of the model, at least one of them with experts if it has any; 0 keeps all."""
    prompts: int = 32
    """Ask this many questions per rollout."""
    group: int = 16
    """Draw this many samples per question."""
    prompt: int = 128
    """Use prompts of this many tokens."""
    tokens: int = 512
    """Sample this many new tokens per completion."""
    beta: float = 0.04
    """Weight the KL divergence from the reference by this; 0 uses no reference, which saves a copy of the weights."""
    microbatch: int = 64
    """Process this many sequences per backward pass, over all devices."""
    logprob_chunk: int = RLConfig.logprob_chunk
    """Tokens whose logits are in memory at one time. On a Hopper GPU with --kernels=auto or mosaic, the logits of a
    microbatch are computed once instead of twice if this is at least the number of its tokens."""
    slots: int = 0
    """Decode this many sequences in parallel; 0 decodes all, or as many as fit into memory."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Store weights, moments and activations in this type."""
    unroll: bool = True
    """Compile each block separately: updates are faster, compilation takes longer."""

    def __post_init__(self) -> None:
        if min(self.prompts, self.prompt, self.tokens, self.microbatch, self.logprob_chunk) < 1:
            raise UserError("prompts, prompt, tokens, microbatch and logprob-chunk must be at least 1")
        if self.model not in SHAPES and not Path(self.model).exists():
            raise UserError(f"model={self.model} is no path of a checkpoint, and none of {', '.join(SHAPES)}")
        if self.layers:
            self.model_config()  # raises UserError if there are not so many

    @property
    def name(self) -> str:
        """Name of the model in files and titles."""
        return short_name(self.model) + (f"-{self.layers}layers" if self.layers else "")

    @property
    def rl(self) -> RLConfig:
        """The RL config: GRPO with AdamW, a reference and one update per rollout."""
        return RLConfig(
            steps=1000,
            prompts=self.prompts,
            group=self.group,
            algorithm=GRPO(beta=self.beta),
            param_dtype=self.dtype,
            microbatch=min(self.microbatch, self.prompts * self.group),
            logprob_chunk=self.logprob_chunk,
        )

    @property
    def width(self) -> int:
        """Tokens of a prompt and its completion."""
        return self.prompt + self.tokens

    @property
    def sampling(self) -> Sampling:
        """Sampling at temperature 1."""
        return Sampling(max_tokens=self.tokens, slots=self.slots)

    def model_config(self, context: int = 0) -> ModelConfig:
        """The model config, with a context for this work and for sequences of ``context`` tokens."""
        shape = SHAPES.get(self.model) or read_config(self.model)
        if self.layers:
            shape = first_layers(shape, self.layers)
        longest = max(shape.context_length, self.width, context)
        return with_compute_options(dataclasses.replace(shape, context_length=longest), self)


# Settings of small_workload.
CPU_SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "prompts": 4,
    "group": 4,
    "prompt": 16,
    "tokens": 32,
    "dtype": "float32",
    "microbatch": 8,
}


AnyWorkload = TypeVar("AnyWorkload", bound=Workload)


def small_workload(work: AnyWorkload) -> AnyWorkload:
    """The work that replaces ``work`` on a CPU, with experts if its model has some."""
    model = "tiny" if work.model_config().experts is None else "tiny-moe"
    return dataclasses.replace(work, **CPU_SETTINGS | {"model": model, "layers": 0})


def frequencies(vocab_size: int) -> np.ndarray:
    """Frequencies of words by rank, p(id) ~ 1 / (id + 3.7): [V] float64, sums to 1.

    Mandelbrot's form of Zipf's law, 1 / (rank + 2.7) from rank 1 (doi:10.3758/s13423-014-0585-6, eq. 2). With 151,936
    ids, the first id is 2.5% of all tokens and the first hundred are a third. Low ids are frequent, as in BPE
    vocabularies.
    """
    weights = 1 / (np.arange(vocab_size) + 3.7)
    return weights / weights.sum()


def with_natural_samples(params: Params, config: ModelConfig) -> Params:
    """Changes the weights so that next tokens follow ``frequencies``, almost independently of the context.

    The first element of each hidden state is so large that RMS normalisation maps it to sqrt(D), and final_norm to
    1 / scale; the blocks do not read it and their outputs are much smaller. The first row of the unembedding is
    scale * log p plus a constant, to within 0.03 nats in bfloat16.

    In models with experts, the outputs of attention are a thousandth: states that share them would all be routed to the
    same experts. The experts of a token thus depend on the token, and the largest load is about 1.4 times the mean.
    """
    log_p = np.log(frequencies(config.vocab_size))
    scale = 0.02 * config.hidden_size**0.5  # norm of the other elements of an embedding
    constant = 16.0  # larger than -log p of the rarest of 500,000 tokens
    row = scale * (constant + log_p) if config.tie_embeddings else np.full(config.vocab_size, scale * constant)

    def fill(name: str, at: Any, value: Any) -> jax.Array:
        return params[name].at[at].set(jnp.asarray(value, params[name].dtype))

    def of_layers(layers: Params) -> Params:
        changed = {name: layers[name].at[:, 0].set(0.0) for name in ("attention_norm", "mlp_norm")}
        if config.experts is not None:
            changed["attention"] = layers["attention"] | {"output": layers["attention"]["output"] * 1e-3}
        return layers | changed

    changed = {
        "embedding": fill("embedding", np.s_[:, 0], row),
        **{run.name: of_layers(params[run.name]) for run in runs(config)},
        "final_norm": fill("final_norm", 0, 1 / (scale * config.hidden_size**0.5)),
    }
    if not config.tie_embeddings:
        changed["unembedding"] = fill("unembedding", 0, scale * log_p)
    return {**params, **changed}


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """A tokenizer of any vocabulary size, with one word per id and no end token."""

    vocab_size: int
    prompt: int
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    chat_template: str | None = None

    def encode(self, text: str) -> list[int]:
        """Draws the ids of a prompt with ``frequencies``; the text seeds the generator."""
        rng = np.random.default_rng(list(text.encode()))
        return rng.choice(self.vocab_size, self.prompt, p=frequencies(self.vocab_size)).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The ids as words."""
        return "".join(f" {i}" for i in ids)

    def decode_batch(self, rows: Sequence[np.ndarray]) -> list[str]:
        """The ids of each row as words."""
        return [self.decode(row.tolist()) for row in rows]

    def render(self, messages: Any, add_generation_prompt: bool = True) -> Rendered:
        """Not supported: raises UserError."""
        raise UserError("this tokenizer has no chat template")

    def chat(self, messages: Any, add_generation_prompt: bool = True) -> list[int]:
        """Not supported: raises UserError."""
        raise UserError("this tokenizer has no chat template")

    def save(self, folder: str | Path) -> None:
        """Not supported: raises UserError."""
        raise UserError("this tokenizer cannot be saved")


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of ``repeats`` calls of ``run``, with their results, after one call that is not timed."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


class Bench:
    """A model with random weights, problems and training state, shared by the benchmark cases.

    Args:
      config: the work.
      pool: computes the rewards.
      context: tokens of the longest sequence, if longer than those of the work.
      training: with moments and reference; False: only rollouts are possible, of models three times as large.
    """

    def __init__(self, config: Workload, pool: Scorer, context: int = 0, training: bool = True):
        self.config, self.mesh = config, jax.sharding.get_mesh()
        self.model_config = config.model_config(context)
        self.rl, self.sampling = config.rl, config.sampling
        tokenizer = WordTokenizer(self.model_config.vocab_size, config.prompt)
        template = Template("bench", "{question}", prefill="")
        self.problems = [Problem(f"{i} + {i}", str(2 * i), "number") for i in range(config.prompts)]
        self.prompts = [template.prompt_ids(p, tokenizer) for p in self.problems]
        self.environment = Environment(self.problems, template, pool, self.sampling, 0, config.prompt)
        model = Model(self.model_config, {}, tokenizer)  # the weights are in the state
        setup = make_setup(model, self.environment, self.rl)
        if not training:
            setup = dataclasses.replace(setup, optimizer=optax.identity())
        self._watch = Stopwatch()
        self.setup = dataclasses.replace(setup, timed=self._watch.timed)
        shapes = rl_shapes(setup).policy
        specs = param_specs(self.model_config)
        dtype = jnp.dtype(config.dtype)

        def init(key: jax.Array) -> Any:
            params = with_natural_samples(init_params(specs, key, dtype), self.model_config)
            return init_state(params, setup.optimizer, shapes)

        # One program: weights that are made first and then copied into a state would fragment the memory.
        policy = jax.jit(init, out_shardings=jax.tree.map(lambda s: s.sharding, shapes))(jax.random.key(0))
        reference = copy_reference(policy.params, self.model_config) if config.beta and training else None
        self.state = RLState(policy, reference)
        if training:

            def prompt_ids(problem: Problem) -> list[int]:
                return template.prompt_ids(problem, tokenizer)

            ahead = compile_while_sampling(self.setup.sample, self.state, self.setup, prompt_ids)
            self.setup = dataclasses.replace(self.setup, sample=ahead)

    def rollout(self, prompts: int, group: int, sampling: Sampling, limits: np.ndarray | None = None) -> Any:
        """Samples ``group`` completions of the first ``prompts`` prompts."""
        return sample(
            self.state.policy.params,
            self.prompts[:prompts],
            self.model_config,
            jax.random.key(1),
            sampling=sampling,
            end_tokens=(),
            samples_per_prompt=group,
            limits=limits,
        )

    def collected(self, step: int) -> Rollout:
        """Prompts, samples and rewards of a step."""
        problems = [self.environment.batch(step, self.rl.prompts, 0, 1)]
        return collect(self.state.policy.params, problems, self._samples_key(step), self.setup)

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """Reference pass and update; their metrics."""
        self.state, metrics, _ = learn(self.state, batch, jax.random.key(step), self.setup)
        return metrics

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        rollout = self.collected(step)
        advantages = self.rl.algorithm.advantages(rollout.totals, rollout.groups.resolution, rollout.counts)
        return batch_of(rollout, advantages, self.setup)

    def uneven_batch(self, limits: np.ndarray, pack: bool) -> Batch:
        """Completions of ``limits`` tokens as the only minibatch of a step, with or without packing."""
        config = self.config
        sampling = dataclasses.replace(self.sampling, max_tokens=int(limits.max()))
        samples = jax.device_get(self.rollout(config.prompts, config.group, sampling, limits))
        prompts = [prompt for prompt in self.prompts for _ in range(config.group)]
        advantages = np.linspace(-1, 1, len(prompts))
        batch = build_batch(prompts, samples, config.prompt + int(limits.max()), advantages=advantages, pack=pack)
        return minibatches(batch, jax.random.key(0), 1, self.rl.microbatch_size)[0]

    def update(self, batch: Batch) -> jax.Array:
        """One update of the state on a batch; its summed loss."""
        setup = self.setup
        policy, sums, _ = update(
            self.state.policy,
            batch,
            setup.optimizer,
            self.rl.algorithm,
            setup.context,
            self.model_config,
            self.rl.passes,
        )
        self.state = dataclasses.replace(self.state, policy=policy)
        return sums["loss"][0]

    def step(self, step: int) -> dict[str, float]:
        """A whole GRPO step, as the experiments run it; its metrics."""
        problems = [self.environment.batch(step, self.rl.prompts, 0, 1)]
        keys = StepKeys(self._samples_key(step), jax.random.key(step))
        self._watch.take()
        self.state, result = rl_step(self.state, problems, keys, self.setup)
        seconds = self._watch.take()
        return result.metrics | {f"seconds_{name}": seconds[name] for name in ("sampling", "rewards")}

    def _samples_key(self, step: int) -> jax.Array:
        return jax.random.fold_in(stage_key(self.environment.seed, self.environment.stage, "samples"), step)

    def free(self) -> None:
        """Frees the memory of weights, moments and reference."""
        for array in jax.tree.leaves(self.state):
            array.delete()
