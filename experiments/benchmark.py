"""Measures the speed of a GRPO step and its parts, relative to the limits of the chip.

    python experiments/benchmark.py --model qwen2.5-0.5b       32 prompts x 16, 128 + 512 tokens, on one GPU
    python experiments/benchmark.py --model qwen2.5-7b --mesh 4x2
    python experiments/benchmark.py --model moe-16b --layers 8
    python experiments/benchmark.py --profile                  also records a trace
    python experiments/benchmark.py --model moe-16b --cases experts    one layer of experts

Weights are random with real shapes and there is no end token, so nothing is downloaded and lengths are fixed. The same
run measures matrix rate and read bandwidth of the chip. The floor of each part is its minimum time at these rates: the
larger of operations / matrix rate and bytes / bandwidth. On a CPU, a small model is used and a message is printed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from r1jax import cli
from r1jax.benchmark.context import PROMPTS, context_limits, time_context
from r1jax.benchmark.drafts import time_drafts
from r1jax.benchmark.experts import time_experts
from r1jax.benchmark.first_step import first_step, first_steps, first_table, is_first_step
from r1jax.benchmark.parts import part_figures
from r1jax.benchmark.workload import Bench, Workload, small_workload, timed
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.kernels.platform import described, missing_kernels
from r1jax.models.attention import check_attention
from r1jax.models.cost import Cost, active_count, forward_cost, rollout_cost, update_cost
from r1jax.models.experts import check_mesh
from r1jax.models.transformer import param_specs
from r1jax.pipeline.command import keep_compiled
from r1jax.pipeline.manifest import versions
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rl.config import check_run
from r1jax.rl.logprobs import batch_logprobs
from r1jax.sharding import make_mesh, param_count, parse_mesh
from r1jax.training.by_device import check_gather

# Numbers of sequences and of proposed tokens in the case drafts.
DRAFTS = ((32, 0), (32, 3), (32, 1), (32, 7), (64, 0), (64, 3), (128, 0), (128, 3), (512, 0), (256, 0), (512, 3))

Case = Literal["rollout", "variable", "long", "context", "step", "uneven", "first", "parity", "experts", "drafts"]


@dataclasses.dataclass(frozen=True)
class Config(Workload):
    """The workload and the cases to time."""

    mesh: str = "1x1"
    """Use this mesh of devices, written DATAxMODEL or DATAxMODELxEXPERT."""
    cases: tuple[Case, ...] = ("rollout", "variable", "step", "parity", "first")
    """Time these cases: variable samples sequences of many lengths, uneven learns from them with and without packing,
    long samples 16 sequences of long-tokens, context samples 4 x group sequences of very different lengths up to
    context-tokens, once and without the time of compiling, first starts with a cold and a warm compile cache, experts
    times one layer of experts with 16,384 tokens in training and 64 in decoding, drafts a step that verifies proposed
    tokens."""
    long_tokens: int = 8192
    """Sample this many new tokens per completion in the case long."""
    context_tokens: int = 32_768
    """Sample at most this many new tokens per completion in the case context, with a median of 2,000."""
    repeats: int = 3
    """Time this many calls of each part, after one that is not timed, and report the median in seconds."""
    out: Path = Path("runs/benchmark")
    """Write the result file MODEL.json and the trace into this folder."""
    profile: bool = False
    """Also record a trace of a short rollout and an update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.long_tokens, self.context_tokens, self.repeats) < 1:
            raise UserError("long-tokens, context-tokens and repeats must be at least 1")
        if "experts" in self.cases and self.model_config().experts is None:
            raise UserError(f"--cases experts: {self.model} has no experts: choose --model=moe-16b")
        if "experts" in self.cases and self.mesh != "1x1":
            raise UserError(f"--cases experts measures one device: remove the case or --mesh={self.mesh}")

    def bench(self, pool: RewardPool, training: bool = True) -> Bench:
        """The workload on the current mesh, with a context for the longest case."""
        return Bench(self, pool, self.prompt + max(2 * self.tokens, self.long_tokens, self.context_tokens), training)


def chip_rates(small: bool) -> tuple[float, float]:
    """Measures FLOP/s of a bfloat16 matrix product and bytes/s of memory reads on one device."""
    n, count = (512, 1 << 22) if small else (8192, 1 << 30)
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
    product = jax.jit(lambda a, b: a @ b)
    x = jax.random.normal(jax.random.key(2), (count,), jnp.float32)
    # Sums of rows instead of one sum: a reduction to a single number is not limited by memory bandwidth.
    rows = jax.jit(lambda x: x.reshape(-1, 4096).sum(axis=1))
    return 2 * n**3 / _chained(product, a, b), 4 * count / _chained(rows, x)


def _chained(run: Callable[..., Any], *args: Any) -> float:
    """Seconds per call of ten calls that are queued on the device."""
    return timed(lambda: [run(*args) for _ in range(10)], 3) / 10


def variable_limits(count: int, longest: int) -> np.ndarray:
    """Lognormal limits with median 128 and sigma 1.0, clipped to 16..1024, scaled by ``longest`` / 1024."""
    lengths = np.random.default_rng(0).lognormal(np.log(128), 1.0, count)
    return np.clip(lengths * longest / 1024, longest / 64, longest).astype(np.int64)


def run_cases(config: Config, pool: RewardPool, console: Console, keep: Callable[..., None]) -> None:
    """Times rollouts, reference pass, update and whole step; ``keep`` stores each result at once."""
    bench = config.bench(pool, bool({"step", "uneven"} & {*config.cases}))
    small = jax.default_backend() == "cpu"
    devices = len(bench.mesh.devices.flatten())
    flops, bandwidth = (rate * devices for rate in chip_rates(small))
    size = jnp.dtype(config.dtype).itemsize
    model, B, width = bench.model_config, config.prompts * config.group, config.width
    keep(parameters=param_count(param_specs(model)), active_parameters=active_count(model))
    keep(matrix_tflops=flops / 1e12, read_terabytes=bandwidth / 1e12)
    parts: dict[str, dict[str, float]] = {}

    def add(name: str, seconds: float, tokens: int, cost: Cost) -> None:
        parts[name] = part_figures(seconds, tokens, cost, flops, bandwidth)
        floor = parts[name]["floor_seconds"]
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
    if "drafts" in config.cases:
        sizes = ((4, 0), (4, 2), (16, 0), (16, 2)) if small else DRAFTS
        drafts = []
        for row in time_drafts(bench, sizes, config.group, config.repeats):
            drafts.append(row)
            keep(drafts=drafts)
            console.print(json.dumps(row), style="dim")
    if "context" in config.cases:
        limits = context_limits(min(PROMPTS, config.prompts) * config.group, config.context_tokens)
        seconds, context = time_context(bench, limits)
        keep(context=context)
        add("context", seconds, int(limits.sum()), rollout_cost(model, limits, config.group, config.prompt, size))
    if "uneven" in config.cases:
        limits = variable_limits(B, 2 * config.tokens)
        real = int(limits.sum()) + B * config.prompt
        cost = update_cost(model, B, real // B, int(limits.mean()), size)
        for name, pack in (("uneven_single", False), ("uneven_packed", True)):
            batch = bench.uneven_batch(limits, pack)
            seconds = timed(lambda batch=batch: bench.update(batch), config.repeats)
            add(name, seconds, real, cost)
    if "step" in config.cases:
        batch = bench.batch(0)

        def reference() -> Any:
            chunk, passes = bench.rl.logprob_chunk, bench.rl.passes
            return batch_logprobs(bench.state.reference, batch.tokens, model, 1.0, passes, chunk, batch.first)

        trained = forward_cost(model, B, width, config.tokens, size)
        if config.beta:
            add("reference", timed(reference, config.repeats), B * width, trained)
        seconds = timed(lambda: bench.update(batch), config.repeats)
        add("update", seconds, B * width, update_cost(model, B, width, config.tokens, size))
        rows: list[dict[str, float]] = []

        def whole() -> Any:
            rows.append(bench.step(len(rows)))

        total = timed(whole, config.repeats)
        names = ("rollout", "reference", "update")
        floor = sum(parts[n]["floor_seconds"] for n in names if n in parts)
        costs = [parts[n] for n in names if n in parts]
        add("step", total, B * config.tokens, Cost(sum(c["flops"] for c in costs), sum(c["bytes"] for c in costs)))
        parts["step"] |= {"floor_seconds": floor, "times_floor": total / floor}
        # Model FLOP: 6 N per token, with N the active parameters and the embedding, as in the compared libraries.
        model_flops = 6 * active_count(model) * B * width
        parts["update"]["mfu_6n"] = model_flops / parts["update"]["seconds"] / (989e12 * devices)
        names = ("sampler_gap", "sampler_gap_max", "seconds_rewards", "load_violation")
        keep(parts=parts, **{name: rows[-1][name] for name in names if name in rows[-1]})


def run_experts(config: Config, keep: Callable[..., None]) -> None:
    """Times one layer of experts; ``keep`` stores the results."""
    small = jax.default_backend() == "cpu"
    flops, bandwidth = chip_rates(small)
    tokens, slots = (256, 8) if small else (16_384, 64)
    products, parts = time_experts(config.model_config(), tokens, slots, flops, bandwidth, config.repeats)
    rates = {"matrix_tflops": flops / 1e12, "read_terabytes": bandwidth / 1e12}
    keep(**rates, expert_products=products, expert_parts=parts)


def parity(config: Config, pool: RewardPool) -> dict[str, float]:
    """Mean and largest difference of sampler and trainer log-probabilities in float32, with fewer prompts."""
    few = dataclasses.replace(config, dtype="float32", prompts=min(config.prompts, 4), microbatch=8)
    with jax.default_matmul_precision("float32"):
        row = few.bench(pool).step(0)
    return {name: row[name] for name in ("sampler_gap", "sampler_gap_max")}


def profile(config: Config, pool: RewardPool) -> None:
    """Records a trace of 16 decoding steps with a full-length cache, and of reference pass and update."""
    bench = config.bench(pool)
    limits = np.full(config.prompts * config.group, min(16, config.tokens))
    batch = bench.batch(0)

    def work() -> None:
        jax.block_until_ready(bench.rollout(config.prompts, config.group, bench.sampling, limits))
        bench.learn(batch, 0)

    work()
    with jax.profiler.trace(str(config.out / "trace")):
        work()


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the table of parts."""
    table = Table(title=f"{figures['model']} on {figures['device']}")
    for name in ("part", "seconds", "tokens/s", "TFLOP", "GB", "floor, s", "times floor"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, part in (figures["parts"] | figures.get("expert_parts", {})).items():
        table.add_row(
            name,
            f"{part['seconds']:.4g}",
            f"{part['tokens_per_second']:,.0f}",
            f"{part['flops'] / 1e12:,.1f}",
            f"{part['bytes'] / 1e9:,.1f}",
            f"{part['floor_seconds']:.4g}",
            f"{part['times_floor']:.2f}",
        )
    console.print(table)
    if "first_parts" in figures:
        console.print(first_table(figures["first_parts"]))
    rest = {k: v for k, v in figures.items() if k not in ("parts", "expert_parts", "first_parts", "settings")}
    console.print(json.dumps(rest, indent=2), highlight=False)


def main() -> None:
    """Runs the benchmark of the command line."""
    presets = {"peers": ("The workload on which other libraries were measured.", Config())}
    config = cli.parse(presets, "peers", prog="benchmark.py", description=(__doc__ or "").splitlines()[0])
    console = Console()
    first: dict[str, Any] = {}
    child = is_first_step()
    check_run(config.rl, config.sampling, parse_mesh(config.mesh).rows)
    check_mesh(config.mesh, config.model_config())
    check_gather(config.gather, config.mesh, config.model_config())
    if "first" in config.cases and not child:
        first = first_steps()  # before this process allocates device memory
    mesh = make_mesh(config.mesh)
    check_attention(config)
    if jax.default_backend() == "cpu":
        config = dataclasses.replace(small_workload(config), long_tokens=128, context_tokens=128)
        if not child:
            console.print("no GPU or TPU found: a small model is used, and the results do not describe a chip")
    if warning := missing_kernels(config.kernels):
        console.print(warning)
    devices = mesh.devices.flatten()
    figures: dict[str, Any] = {
        "model": config.name,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "kernels": described(config.kernels),
        "parts": {},
        **first,
        "settings": json.loads(cli.to_json(config)),
        "versions": versions("jax", "jaxlib", "optax"),
    }

    def keep(**more: Any) -> None:
        figures.update(more)
        config.out.mkdir(parents=True, exist_ok=True)
        write_whole(config.out / f"{config.name}.json", json.dumps(figures, indent=2) + "\n")

    with RewardPool(parse_rewards(["accuracy", "format"]), 8, 60.0) as pool, jax.set_mesh(mesh):
        if child:
            keep_compiled()  # the limits of the experiments; the folder is that of first_steps
            print(json.dumps(first_step(lambda: config.bench(pool))))
            return
        if "experts" in config.cases:
            run_experts(config, keep)
        if set(config.cases) != {"experts"}:
            run_cases(config, pool, console, keep)
        stats = jax.local_devices()[0].memory_stats() or {}
        keep(peak_gibibytes=stats.get("peak_bytes_in_use", 0) / 2**30)
        if "parity" in config.cases:
            keep(**{f"float32_{name}": gap for name, gap in parity(config, pool).items()})
        if config.profile:
            profile(config, pool)
    show(figures, console)


if __name__ == "__main__":
    cli.call_and_exit(main)
