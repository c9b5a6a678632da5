"""Speed of a GRPO step and its parts beside what the chip allows.

    python experiments/benchmark.py --model qwen2.5-0.5b       32 prompts x 16, 128 + 512 tokens, on one GPU
    python experiments/benchmark.py --model qwen2.5-7b --mesh 4x2
    python experiments/benchmark.py --profile                  leaves a trace beside the figures

Random weights at the real shapes and no end token: nothing is downloaded, and lengths are what is asked for. The chip's
own matrix rate and read bandwidth are measured in the same run; the floor of each part is the longer of its operations
over the one and its bytes over the other. On a CPU it runs a small model and says so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from r1jax import __version__, cli
from r1jax.checkpoints.model import Model
from r1jax.data.problem import Problem
from r1jax.data.template import Template
from r1jax.errors import UserError
from r1jax.models.cost import Cost, forward_cost, rollout_cost, update_cost
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import init_params, make_mesh, param_count, parse_mesh
from r1jax.stages.collect import Collected, Environment, collect, lay_out
from r1jax.stages.rl import copy_reference, learn
from r1jax.stages.rl_config import RLConfig, check_run
from r1jax.stages.run import write_whole
from r1jax.training.loop import Carry
from r1jax.training.rollout import Rollout, score
from r1jax.training.state import init_state, make_optimizer, state_shapes
from r1jax.training.update import update

Case = Literal["rollout", "variable", "long", "step", "first", "parity"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The work that is timed."""

    model: Literal["tiny", "smollm2", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b"] = "qwen2.5-0.5b"
    """Shapes of the model; its weights are random."""
    mesh: str = "1x1"
    """Devices as DATAxMODEL."""
    cases: tuple[Case, ...] = ("rollout", "variable", "step", "parity", "first")
    """What to time; long is 16 sequences of 8,192 tokens, first the first step with a cold and a warm cache."""
    prompts: int = 32
    """Questions a rollout."""
    group: int = 16
    """Samples of each."""
    prompt: int = 128
    """Tokens of a prompt."""
    tokens: int = 512
    """New tokens of a sample."""
    long_tokens: int = 8192
    """New tokens of each of the long case's 16 samples."""
    beta: float = 0.04
    """Weight of the KL to the reference; 0 does without a reference, which saves a copy of the weights."""
    microbatch: int = 64
    """Sequences in one backward pass, over all devices."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass computes again."""
    unroll: bool = True
    """Compile the blocks one by one."""
    slots: int = 0
    """Sequences decoded side by side; 0 is all, or as many as memory holds."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights, moments and activations."""
    repeats: int = 3
    """Timed runs of each part, after one that is not; the median is reported."""
    out: Path = Path("runs/benchmark")
    """Folder of the figures, MODEL.json, and of the trace."""
    profile: bool = False
    """Leave a trace of a short rollout and an update."""

    def __post_init__(self) -> None:
        if min(self.prompts, self.prompt, self.tokens, self.long_tokens, self.repeats) < 1 or self.microbatch < 1:
            raise UserError("prompts, prompt, tokens, long-tokens, repeats and microbatch must be at least 1")

    @property
    def rl(self) -> RLConfig:
        """GRPO as the peers were measured: AdamW, a reference, one update a rollout."""
        return RLConfig(
            steps=1000, prompts=self.prompts, group=self.group, beta=self.beta, param_dtype=self.dtype,
            microbatch=min(self.microbatch, self.prompts * self.group),
        )  # fmt: skip


# What a CPU is given in place of the work that was asked for.
SMALL: dict[str, Any] = {
    "model": "tiny", "prompts": 4, "group": 4, "prompt": 16, "tokens": 32, "long_tokens": 128, "dtype": "float32",
    "microbatch": 8,
}  # fmt: skip


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
        """As many ids as a prompt has, which depend on the text."""
        rng = np.random.default_rng(list(text.encode()))
        return rng.integers(1, self.vocab_size, self.prompt).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The ids as words."""
        return "".join(f" {i}" for i in ids)

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


def chip_rates(small: bool) -> tuple[float, float]:
    """FLOP/s of a bfloat16 matrix product and bytes/s of reading memory, as measured on one device."""
    n, count = (512, 1 << 22) if small else (8192, 1 << 30)
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
    product = jax.jit(lambda a, b: a @ b)
    x = jax.random.normal(jax.random.key(2), (count,), jnp.float32)
    # Sums of rows, and not one sum: a reduction to a single number is slower than memory.
    rows = jax.jit(lambda x: x.reshape(-1, 4096).sum(axis=1))
    return 2 * n**3 / _chained(product, a, b), 4 * count / _chained(rows, x)


def _chained(run: Callable[..., Any], *args: Any) -> float:
    """Seconds a call, of ten that wait for one another on the device alone."""
    return timed(lambda: [run(*args) for _ in range(10)], 3) / 10


def variable_limits(count: int, longest: int) -> np.ndarray:
    """Limits drawn lognormal with median 128 and sigma 1.0, clipped to 16..1024, scaled to ``longest`` of 1024."""
    drawn = np.random.default_rng(0).lognormal(np.log(128), 1.0, count)
    return np.clip(drawn * longest / 1024, longest / 64, longest).astype(np.int64)


class Bench:
    """A model with random weights, the problems and the state that the cases share."""

    def __init__(self, config: Config, pool: RewardPool):
        self.config, self.mesh = config, jax.sharding.get_mesh()
        model = dataclasses.replace(SHAPES[config.model], dtype=config.dtype, remat=config.remat, unroll=config.unroll)
        need = config.prompt + max(2 * config.tokens, config.long_tokens)
        self.model_config = dataclasses.replace(model, context_length=max(model.context_length, need))
        self.rl = config.rl
        self.sampling = Sampling(max_tokens=config.tokens, slots=config.slots)
        self.optimizer = make_optimizer(self.rl, 1000)
        shapes = state_shapes(self.model_config, self.rl, self.optimizer, self.mesh)
        specs = param_specs(self.model_config)
        dtype, place = jnp.dtype(config.dtype), jax.tree.map(lambda s: s.sharding, shapes)
        # One program: weights made first and copied into a state would leave a hole as large as they are.
        init = jax.jit(
            lambda key: init_state(init_params(specs, key, dtype), self.optimizer, shapes), out_shardings=place
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
            self.carry.state.params, self.prompts[:prompts], self.model_config, jax.random.key(1),
            sampling=sampling, end_tokens=(), samples_per_prompt=group, limits=limits,
        )  # fmt: skip

    def collected(self, step: int) -> Collected:
        """Prompts, samples and rewards of a step."""
        return collect(self.carry.state.params, self.model, self.environment, self.rl, step)

    def learn(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Reference pass and update; their metrics."""
        objective = self.rl.objective(self.sampling)
        return learn(self.carry, rollout, self.optimizer, self.rl, objective, self.model_config, jax.random.key(step))

    def step(self, step: int) -> dict[str, float]:
        """A whole GRPO step, as the experiments run it; its metrics."""
        found = self.collected(step)
        row = self.learn(lay_out(found.groups, self.rl, self.config.prompt + self.config.tokens), step)
        return row | {"seconds_sampling": found.seconds_sampling, "seconds_rewards": found.seconds_rewards}


def run_cases(config: Config, pool: RewardPool, console: Console, keep: Callable[..., None]) -> None:
    """Times the rollouts, the passes that learn and the whole step; each figure is kept as soon as it is there."""
    bench = Bench(config, pool)
    small = jax.default_backend() == "cpu"
    devices = len(bench.mesh.devices.flatten())
    flops, bandwidth = (rate * devices for rate in chip_rates(small))
    size = jnp.dtype(config.dtype).itemsize
    keep(matrix_tflops=flops / 1e12, read_terabytes=bandwidth / 1e12)
    model, B, width = bench.model_config, config.prompts * config.group, config.prompt + config.tokens
    parts: dict[str, dict[str, float]] = {}

    def add(name: str, seconds: float, tokens: int, cost: Cost) -> None:
        floor = cost.seconds(flops, bandwidth)
        parts[name] = {
            "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "flops": cost.flops,
            "bytes": cost.bytes, "floor_seconds": floor, "times_floor": seconds / floor,
            "flops_utilisation": cost.flops / seconds / flops,
        }  # fmt: skip
        keep(parts=parts)
        console.print(f"{name}: {seconds:.3f} s, {tokens / seconds:,.0f} tokens/s, floor {floor:.3f} s", style="dim")

    if "rollout" in config.cases:
        seconds = timed(lambda: bench.rollout(config.prompts, config.group, bench.sampling), config.repeats)
        cost = rollout_cost(model, np.full(B, config.tokens), config.group, config.prompt, size)
        add("rollout", seconds, B * config.tokens, cost)
    if "variable" in config.cases:
        limits = variable_limits(B, 2 * config.tokens)
        sampling = dataclasses.replace(bench.sampling, max_tokens=int(limits.max()))
        seconds = timed(lambda: bench.rollout(config.prompts, config.group, sampling, limits), config.repeats)
        add("variable", seconds, int(limits.sum()), rollout_cost(model, limits, config.group, config.prompt, size))
    if "long" in config.cases:
        sampling = dataclasses.replace(bench.sampling, max_tokens=config.long_tokens)
        seconds = timed(lambda: bench.rollout(1, 16, sampling), 1)
        cost = rollout_cost(model, np.full(16, config.long_tokens), 16, config.prompt, size)
        add("long", seconds, 16 * config.long_tokens, cost)
    if "step" in config.cases:
        found = bench.collected(0)
        batch = lay_out(found.groups, bench.rl, width)
        objective = bench.rl.objective(bench.sampling)
        passes = bench.rl.sequences // bench.rl.microbatch_size

        def reference() -> Any:
            return score(bench.carry.reference, batch.tokens, model, 1.0, passes, objective.chunk, batch.first)

        def learned() -> Any:
            bench.carry.state, sums, _ = update(bench.carry.state, batch, bench.optimizer, objective, model, passes)
            return sums["loss"]

        trained = forward_cost(model, B, width, config.tokens, size)
        if config.beta:
            add("reference", timed(reference, config.repeats), B * width, trained)
        add("update", timed(learned, config.repeats), B * width, update_cost(model, B, width, config.tokens, size))
        rows: list[dict[str, float]] = []

        def whole() -> Any:
            rows.append(bench.step(len(rows)))

        total = timed(whole, config.repeats)
        names = ("rollout", "reference", "update")
        floor = sum(parts[n]["floor_seconds"] for n in names if n in parts)
        costs = [parts[n] for n in names if n in parts]
        add("step", total, B * config.tokens, Cost(sum(c["flops"] for c in costs), sum(c["bytes"] for c in costs)))
        parts["step"] |= {"floor_seconds": floor, "times_floor": total / floor}
        # 6 N tokens over the update's time, N with the embedding: how the peers' utilisation was counted.
        model_flops = 6 * param_count(param_specs(model)) * B * width
        parts["update"]["mfu_6n"] = model_flops / parts["update"]["seconds"] / (989e12 * devices)
        keep(parts=parts, **{name: rows[-1][name] for name in ("sampler_gap", "sampler_gap_max", "seconds_rewards")})


def parity(config: Config, pool: RewardPool) -> dict[str, float]:
    """Mean and largest gap of sampler and trainer log-probabilities in float32, on fewer prompts."""
    few = dataclasses.replace(config, dtype="float32", prompts=min(config.prompts, 4), microbatch=8)
    with jax.default_matmul_precision("float32"):
        row = Bench(few, pool).step(0)
    return {name: row[name] for name in ("sampler_gap", "sampler_gap_max")}


def profile(config: Config, pool: RewardPool) -> None:
    """Leaves a trace of 16 decoding steps in a cache of the full length, and of the passes that learn."""
    bench = Bench(config, pool)
    limits = np.full(config.prompts * config.group, min(16, config.tokens))
    batch = lay_out(bench.collected(0).groups, bench.rl, config.prompt + config.tokens)

    def work() -> None:
        jax.block_until_ready(bench.rollout(config.prompts, config.group, bench.sampling, limits))
        bench.learn(batch, 0)

    work()
    with jax.profiler.trace(str(config.out / "trace")):
        work()


def first_step(config: Config, pool: RewardPool) -> float:
    """Seconds from nothing compiled to the end of a step, with weights that are there already."""
    bench = Bench(config, pool)
    jax.block_until_ready(bench.carry.state.params)
    began = time.perf_counter()
    bench.step(0)
    return time.perf_counter() - began


def first_steps(config: Config) -> dict[str, float]:
    """first_step in a process of its own with an empty compilation cache, and in another with what that one left."""
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "R1JAX_FIRST_STEP": "1"}
        for name in ("first_step_cold", "first_step_warm"):
            done = subprocess.run([sys.executable, *sys.argv], env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise UserError(f"{name}: the process that takes the first step ended with status {done.returncode}")
            seconds[name] = float(done.stdout.splitlines()[-1])
    return seconds


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the table of parts."""
    table = Table(title=f"{figures['model']} on {figures['device']}")
    for name in ("part", "seconds", "tokens/s", "TFLOP", "GB", "floor, s", "times floor"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, part in figures["parts"].items():
        table.add_row(
            name, f"{part['seconds']:.3f}", f"{part['tokens_per_second']:,.0f}", f"{part['flops'] / 1e12:,.1f}",
            f"{part['bytes'] / 1e9:,.1f}", f"{part['floor_seconds']:.3f}", f"{part['times_floor']:.2f}",
        )  # fmt: skip
    console.print(table)
    rest = {k: v for k, v in figures.items() if k not in ("parts", "settings")}
    console.print(json.dumps(rest, indent=2), highlight=False)


def main() -> None:
    """Runs the benchmark that the command line asks for."""
    presets = {"peers": ("the work that peers were measured on", Config())}
    config = cli.parse(presets, "peers", prog="benchmark.py", description=(__doc__ or "").splitlines()[0])
    console = Console()
    first: dict[str, float] = {}
    child = "R1JAX_FIRST_STEP" in os.environ
    check_run(config.rl, Sampling(max_tokens=config.tokens), parse_mesh(config.mesh)[0])
    if "first" in config.cases and not child:
        first = first_steps(config)  # before this process takes the device's memory
    mesh = make_mesh(config.mesh)
    if jax.default_backend() == "cpu":
        config = dataclasses.replace(config, **SMALL)
        if not child:
            console.print("no GPU or TPU here: a small model and little work; the figures say nothing about a chip")
    devices = mesh.devices.flatten()
    figures: dict[str, Any] = {
        "model": config.model,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "parts": {},
        **first,
        "settings": json.loads(cli.to_json(config)),
        "versions": {
            "python": platform.python_version(),
            "r1jax": __version__,
            **{name: version(name) for name in ("jax", "jaxlib", "optax")},
        },
    }

    def keep(**more: Any) -> None:
        figures.update(more)
        config.out.mkdir(parents=True, exist_ok=True)
        write_whole(config.out / f"{config.model}.json", json.dumps(figures, indent=2) + "\n")

    with RewardPool(parse_rewards(["accuracy", "format"]), 8, 60.0) as pool, jax.set_mesh(mesh):
        if child:
            print(first_step(config, pool))
            return
        run_cases(config, pool, console, keep)
        stats = jax.local_devices()[0].memory_stats() or {}
        keep(peak_gibibytes=stats.get("peak_bytes_in_use", 0) / 2**30)
        if "parity" in config.cases:
            keep(**{f"float32_{name}": gap for name, gap in parity(config, pool).items()})
        if config.profile:
            profile(config, pool)
    show(figures, console)


if __name__ == "__main__":
    cli.run(main)
