"""A GRPO step on random weights at the real shapes: the work that benchmarks time.

Tokens of prompts and samples have the frequencies of natural text (Zipf's law): sums and memory traffic that many
tokens of one kind share then cost what they do in training.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.chat import Rendered
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions, ModelConfig, with_compute_options
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.rewards.pool import Scorer
from r1jax.rl.batch import Rollout
from r1jax.rl.config import RLConfig
from r1jax.rl.rollouts import Collected, Environment, collect, lay_out
from r1jax.rl.train import copy_reference, learn
from r1jax.rl.update import update
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import Params, init_params
from r1jax.training.loop import Carry
from r1jax.training.state import init_state, make_optimizer, state_shapes


@dataclasses.dataclass(frozen=True)
class Work(ComputeOptions):
    """A GRPO step: the model, its batch, and how it is computed."""

    model: Literal["tiny", "smollm2", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b"] = "qwen2.5-0.5b"
    """Shapes of the model; its weights are random, and its samples have natural frequencies."""
    prompts: int = 32
    """Questions a rollout."""
    group: int = 16
    """Samples of each."""
    prompt: int = 128
    """Tokens of a prompt."""
    tokens: int = 512
    """New tokens of a sample."""
    beta: float = 0.04
    """Weight of the KL to the reference; 0 does without a reference, which saves a copy of the weights."""
    microbatch: int = 64
    """Sequences in one backward pass, over all devices."""
    slots: int = 0
    """Sequences decoded side by side; 0 is all, or as many as memory holds."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of weights, moments and activations."""
    unroll: bool = True
    """Compile the blocks one by one: faster updates, longer compilation."""

    def __post_init__(self) -> None:
        if min(self.prompts, self.prompt, self.tokens, self.microbatch) < 1:
            raise UserError("prompts, prompt, tokens and microbatch must be at least 1")

    @property
    def rl(self) -> RLConfig:
        """GRPO as the peers were measured: AdamW, a reference, one update a rollout."""
        return RLConfig(
            steps=1000,
            prompts=self.prompts,
            group=self.group,
            beta=self.beta,
            param_dtype=self.dtype,
            microbatch=min(self.microbatch, self.prompts * self.group),
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
        """The model, with room for the work and for sequences of ``context`` tokens."""
        shape = SHAPES[self.model]
        longest = max(shape.context_length, self.width, context)
        return with_compute_options(dataclasses.replace(shape, context_length=longest), self)


# What a CPU is given in place of the work that was asked for.
SMALL: dict[str, Any] = {
    "model": "tiny",
    "prompts": 4,
    "group": 4,
    "prompt": 16,
    "tokens": 32,
    "dtype": "float32",
    "microbatch": 8,
}


def frequencies(vocab_size: int) -> np.ndarray:
    """Frequencies of words by rank, p(id) ~ 1 / (id + 3.7): [V] float64, sums to 1.

    Zipf's law as Mandelbrot has it, 1 / (rank + 2.7) from rank 1 on (doi:10.3758/s13423-014-0585-6, eq. 2). Of 151,936
    ids the first is 2.5% of all tokens, and the first hundred are a third. Low ids are the frequent ones, as in
    vocabularies made by merges.
    """
    weights = 1 / (np.arange(vocab_size) + 3.7)
    return weights / weights.sum()


def with_natural_samples(params: Params, config: ModelConfig) -> Params:
    """The weights changed such that the model's next token follows ``frequencies``, nearly alike in all contexts.

    The first element of each hidden state is so large that RMS normalisation makes it sqrt(D) and final_norm 1 / scale;
    the blocks neither read it nor reach its size. The first row of the unembedding is scale * log p plus a constant, to
    within 0.03 nats in bfloat16.
    """
    log_p = np.log(frequencies(config.vocab_size))
    scale = 0.02 * config.hidden_size**0.5  # the norm of the embedding's other elements
    constant = 16.0  # above -log p of the rarest of 500,000 tokens
    row = scale * (constant + log_p) if config.tie_embeddings else np.full(config.vocab_size, scale * constant)

    def fill(name: str, at: Any, value: Any) -> jax.Array:
        return params[name].at[at].set(jnp.asarray(value, params[name].dtype))

    layers = params["layers"]
    changed = {
        "embedding": fill("embedding", np.s_[:, 0], row),
        "layers": layers | {name: layers[name].at[:, 0].set(0.0) for name in ("attention_norm", "mlp_norm")},
        "final_norm": fill("final_norm", 0, 1 / (scale * config.hidden_size**0.5)),
    }
    if not config.tie_embeddings:
        changed["unembedding"] = fill("unembedding", 0, scale * log_p)
    return {**params, **changed}


@dataclasses.dataclass(frozen=True)
class Words:
    """A tokenizer of any size whose every id is a word and whose texts never end by themselves."""

    vocab_size: int
    prompt: int
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    chat_template: str | None = None

    def encode(self, text: str) -> list[int]:
        """As many ids as a prompt has, drawn by ``frequencies`` from a generator that the text seeds."""
        rng = np.random.default_rng(list(text.encode()))
        return rng.choice(self.vocab_size, self.prompt, p=frequencies(self.vocab_size)).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The ids as words."""
        return "".join(f" {i}" for i in ids)

    def render(self, messages: Any, add_generation_prompt: bool = True) -> Rendered:
        """Words have no roles."""
        raise UserError("this tokenizer has no chat template")

    def chat(self, messages: Any, add_generation_prompt: bool = True) -> list[int]:
        """Words have no roles."""
        raise UserError("this tokenizer has no chat template")

    def save(self, folder: str | Path) -> None:
        """Words are made, and not kept."""
        raise UserError("this tokenizer is not saved")


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of ``run``, whose result is waited for, after one run that is not timed."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


class Bench:
    """A model with random weights, the problems and the state that the cases share."""

    def __init__(self, config: Work, pool: Scorer, context: int = 0):
        self.config, self.mesh = config, jax.sharding.get_mesh()
        self.model_config = config.model_config(context)
        self.rl, self.sampling = config.rl, config.sampling
        self.objective = self.rl.objective(self.sampling)
        self.optimizer = make_optimizer(self.rl, 1000)
        shapes = state_shapes(self.model_config, self.rl, self.optimizer, self.mesh)
        specs = param_specs(self.model_config)
        dtype, place = jnp.dtype(config.dtype), jax.tree.map(lambda s: s.sharding, shapes)
        # One program: weights made first and copied into a state would leave a hole as large as they are.
        init = jax.jit(
            lambda key: init_state(
                with_natural_samples(init_params(specs, key, dtype), self.model_config), self.optimizer, shapes
            ),
            out_shardings=place,
        )
        state = init(jax.random.key(0))
        self.carry = Carry(state, copy_reference(state.params, self.model_config) if config.beta else None)
        tokenizer = Words(self.model_config.vocab_size, config.prompt)
        self.model = Model(self.model_config, {}, tokenizer)  # the weights are in the state
        template = Template("bench", "{question}", prefill="")
        problems = [Problem(f"{i} + {i}", str(2 * i), "number") for i in range(config.prompts)]
        self.prompts = [template.prompt_ids(p, tokenizer) for p in problems]
        self.environment = Environment(problems, template, pool, self.sampling, 0, config.prompt)

    def rollout(self, prompts: int, group: int, sampling: Sampling, limits: np.ndarray | None = None) -> Any:
        """Samples of the first ``prompts`` prompts."""
        return sample(
            self.carry.state.params,
            self.prompts[:prompts],
            self.model_config,
            jax.random.key(1),
            sampling=sampling,
            end_tokens=(),
            samples_per_prompt=group,
            limits=limits,
        )

    def collected(self, step: int) -> Collected:
        """Prompts, samples and rewards of a step."""
        return collect(self.carry.state.params, self.model, self.environment, self.rl, step)

    def learn(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Reference pass and update; their metrics."""
        key = jax.random.key(step)
        return learn(self.carry, rollout, self.optimizer, self.rl, self.objective, self.model_config, key)

    def batch(self, step: int) -> Rollout:
        """The rollout of a step, laid out for the update."""
        return lay_out(self.collected(step).groups, self.rl, self.config.width)

    def update(self, batch: Rollout) -> jax.Array:
        """One update of the state on a rollout; its summed loss."""
        passes = self.rl.sequences // self.rl.microbatch_size
        self.carry.state, sums, _ = update(
            self.carry.state, batch, self.optimizer, self.objective, self.model_config, passes
        )
        return sums["loss"][0]

    def step(self, step: int) -> dict[str, float]:
        """A whole GRPO step, as the experiments run it; its metrics."""
        found = self.collected(step)
        row = self.learn(lay_out(found.groups, self.rl, self.config.width), step)
        return row | {"seconds_sampling": found.seconds_sampling, "seconds_rewards": found.seconds_rewards}

    def free(self) -> None:
        """Gives the memory of weights, moments and reference back."""
        for array in jax.tree.leaves((self.carry.state, self.carry.reference)):
            array.delete()
