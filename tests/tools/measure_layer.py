"""Times the kernels of products with few rows, and decoding steps with and without them, on one Hopper GPU.

    PYTHONPATH=. python tests/tools/measure_layer.py OUT.json --limit 90

Each part has a process: one kernel at several sizes, or the rollout of a model with random weights in one form. Several
processes compile at the same time and then measure one after another, so a part that fails or hangs becomes a row with
its error. A time of a kernel is the mean of calls with the matrices of 24 layers, which exceed the cache of
the GPU; its result is compared with float32. A time of a step is that of a rollout divided by its tokens per sequence.

Forms: ``triton`` and ``mosaic`` without the kernels of few rows; ``pdl`` as ``triton``, with programmatic dependent
launch of XLA's kernels; ``few`` with the kernels of few rows. The others differ from ``few``: ``eager`` without CUDA
graphs, ``wide`` with 64 columns in each program, ``mlp`` with the kernels of the feed-forward block alone,
``attention`` with the others alone. ``auto`` is the choice of --kernels=auto, and ``alone`` the same with Triton's
attention. A checksum shows that all forms with the same kernels draw the same tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.kernels import few_rows, few_rows_mosaic, platform
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.few_rows_mosaic import gated_product, product, product_parts
from r1jax.models import attention, mlp
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import init_params

MODELS = {"0.5b": "qwen2.5-0.5b", "1.5b": "qwen2.5-1.5b"}
LAYERS = 24  # whose matrices a loop reads
LOOPS = 20  # iterations over all layers
TOKENS = 512  # per sequence of a rollout
REPEATS = 3
PATIENCE = 12  # seconds for the measurement of a part
FLAGS = {
    "eager": "--xla_gpu_enable_command_buffer=",
    "pdl": "--xla_gpu_enable_pdl=true --xla_gpu_enable_pdl_launch=true",
}
KERNELS = ("gated", "down", "qkv", "output", "sum")
# Kernel and form, or model, form and slots; the most important parts first.
PARTS = (
    *[("step", "0.5b", form, "32") for form in ("few", "mosaic", "triton")],
    *[("step", model, form, slots) for slots in ("32", "64", "8") for model in MODELS for form in ("auto", "alone")],
    *[("kernel", name, "few") for name in KERNELS],
    ("step", "0.5b", "eager", "32"),
    *[("step", "1.5b", form, "32") for form in ("few", "mosaic", "triton")],
    *[("kernel", name, form) for name, form in (("gated", "wide"), ("gated", "plain"), ("down", "plain"))],
    *[("step", model, form, slots) for slots in ("64", "8") for model in MODELS for form in ("few", "mosaic")],
    *[("step", "0.5b", form, "32") for form in ("mlp", "attention", "pdl", "wide")],
    *[("kernel", name, form) for name, form in (("qkv", "wide"), ("qkv", "plain"), ("output", "plain"))],
    *[("step", model, "triton", slots) for slots in ("64", "8") for model in MODELS],
    *[("step", "0.5b", form, "128") for form in ("few", "mosaic", "triton")],
)
AHEAD = 10  # processes that compile at the same time
ROUND = 30  # seconds after which the parts that are ready are measured, while the others are stopped
SLOTS = (32, 64, 8)  # of kernels


def normal(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    return jax.jit(lambda key: (scale * jax.random.normal(key, shape)).astype(jnp.bfloat16))(jax.random.key(seed))


def difference(got: jax.Array, want: jax.Array) -> float:
    """Norm of the difference, relative to the norm of the result in float32."""
    return float(jnp.linalg.norm(got.astype(jnp.float32) - want) / jnp.linalg.norm(want))


def seconds_of(run: Callable[[], Any]) -> float:
    """The median time of calls of a program that has been compiled."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _times(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


def _gated(x: jax.Array, w: jax.Array) -> jax.Array:
    gate, up = jnp.split(x @ w.T, 2, axis=1)
    return mlp.gated(gate, up)


def case(name: str, model: str) -> tuple[tuple[int, int], Callable[..., jax.Array], Callable[..., jax.Array]]:
    """The shape of a kernel's matrix, transposed for the gated product, the function in plain JAX, and the kernel."""
    config = SHAPES[MODELS[model]]
    D, F = config.hidden_size, config.intermediate_size
    H, G, K = config.num_heads, config.num_kv_heads, config.head_dim
    return {
        "gated": ((2 * F, D), _gated, gated_product),
        "down": ((F, D), _times, product_parts),
        "qkv": ((D, (H + 2 * G) * K), _times, product),
        "output": ((H * K, D), _times, product_parts),
    }[name]


def of_kernel(name: str, form: str) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """A row for each size, and what measures it; the program is compiled and has run once."""
    for slots in SLOTS:
        for model in MODELS:
            if slots != SLOTS[0] and model != "0.5b":
                continue
            row = {"kernel": name, "form": form, "model": model, "slots": slots}
            yield row, (_sum if name == "sum" else partial(_product, name))(form, model, slots)


def _product(name: str, form: str, model: str, slots: int) -> Callable[[], dict[str, Any]]:
    shape, plain, kernel = case(name, model)
    multiply = plain if form == "plain" else kernel
    inputs = normal(0, 2, slots, shape[name == "gated"])
    matrices = [normal(i, *shape, scale=0.02) for i in range(LAYERS)]
    blank = jax.eval_shape(multiply, inputs[0], matrices[0])

    def run(inputs: jax.Array, matrices: list[jax.Array]) -> Any:
        def step(i: jax.Array, _: Any) -> Any:  # the input depends on the step, so that no product leaves the loop
            x = inputs[i % 2]
            return [multiply(x, w) for w in matrices]

        return jax.lax.fori_loop(0, LOOPS, step, [jnp.zeros(blank.shape, blank.dtype)] * LAYERS)

    def measure() -> dict[str, Any]:
        got = jax.jit(multiply)(inputs[0], matrices[0])
        with jax.default_matmul_precision("highest"):
            wide = inputs[0].astype(jnp.float32), matrices[0].astype(jnp.float32)
            want = jax.jit(plain)(*wide)
        error = difference(few_rows.whole(got, jnp.float32), want)
        per_call = seconds_of(lambda: compiled(inputs, matrices)) / (LOOPS * LAYERS)
        rate = 2 * shape[0] * shape[1] / per_call
        return {"error": error, "microseconds": 1e6 * per_call, "gigabytes_per_s": rate / 1e9}

    compiled = jax.jit(run).lower(inputs, matrices).compile()
    jax.block_until_ready(compiled(inputs, matrices))
    return measure


def _sum(form: str, model: str, slots: int) -> Callable[[], dict[str, Any]]:
    """The residual sum of the down product's parts and its norm."""
    config = SHAPES[MODELS[model]]
    D, F = config.hidden_size, config.intermediate_size
    parts = jax.eval_shape(product_parts, *(jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((slots, F), (F, D))))
    y = jax.jit(lambda key: jax.random.normal(key, parts.shape))(jax.random.key(1))
    x, weight, norm = normal(0, slots, D), normal(2, D), partial(add_norm, eps=1e-6)
    kernels = "plain" if form == "plain" else "mosaic"
    one = jax.jit(partial(norm, kernels=kernels))

    def run(x: jax.Array, y: jax.Array, weight: jax.Array) -> Any:
        def step(_: jax.Array, x: jax.Array) -> jax.Array:
            for _layer in range(LAYERS):
                x = norm(x, y, weight, kernels=kernels)[1]
            return x

        return jax.lax.fori_loop(0, LOOPS, step, x)

    def measure() -> dict[str, Any]:
        got = one(x, y, weight)
        want = jax.jit(partial(norm, kernels="plain"))(x.astype(jnp.float32), y, weight.astype(jnp.float32))
        error = max(difference(a, b) for a, b in zip(got, want, strict=True))
        per_call = seconds_of(lambda: compiled(x, y, weight)) / (LOOPS * LAYERS)
        return {"error": error, "microseconds": 1e6 * per_call, "parts": len(y)}

    compiled = jax.jit(run).lower(x, y, weight).compile()
    jax.block_until_ready(compiled(x, y, weight))
    return measure


def of_step(
    model: str, form: str, slots: int, kernels: Any
) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """A row, and what measures it; the program is compiled and has run once."""
    config = dataclasses.replace(SHAPES[MODELS[model]], dtype="bfloat16", kernels=kernels)
    params = jax.jit(lambda key: init_params(param_specs(config), key, jnp.bfloat16))(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (max(1, slots // 16), 128)).tolist()
    sampling = Sampling(max_tokens=TOKENS, slots=slots)

    def run() -> Any:
        group = slots // len(prompts)
        key = jax.random.key(1)
        return sample(params, prompts, config, key, sampling=sampling, end_tokens=(), samples_per_prompt=group)

    def measure() -> dict[str, Any]:
        samples = run()
        tokens, logprobs = np.asarray(samples.tokens), np.asarray(samples.logprobs)
        figures = {"milliseconds": 1e3 * seconds_of(lambda: run().tokens) / TOKENS}
        return figures | {"tokens": zlib.crc32(tokens.tobytes()), "first_logprob": float(logprobs[:, 0].mean())}

    jax.block_until_ready(run().tokens)
    yield {"step": model, "form": form, "slots": slots}, measure


def choose_form(form: str) -> None:
    """Changes which kernels this process uses."""

    def none(*_: Any) -> bool:
        return False

    if form == "wide":
        few_rows_mosaic.COLUMNS = (64,)
    if form == "mosaic":
        few_rows.chosen = none
    if form == "alone":
        platform.FASTER = platform.FASTER - {"few pairs"}
    if form == "mlp":
        attention.few_rows = SimpleNamespace(fits=none)
    if form == "attention":
        mlp.few_rows = SimpleNamespace(chosen=none)


def work(*part: str) -> None:
    """Compiles a part, waits for a line of input, measures, and prints a line of JSON for each row."""
    kind, first, form, *slots = part
    try:
        choose_form(form)
        kernels = {"triton": "triton", "pdl": "triton", "auto": "auto", "alone": "auto"}.get(form, "mosaic")
        rows = list(of_kernel(first, form) if kind == "kernel" else of_step(first, form, int(slots[0]), kernels))
    except Exception as error:
        print(json.dumps({"row": {"part": " ".join(part), "failure": f"{type(error).__name__}: {error}"[:400]}}))
        return
    measure_when_asked(rows)


def measure_when_asked(rows: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]) -> None:
    """Prints that a part is ready, waits for a line of input, measures, and prints a line of JSON for each row."""
    print(json.dumps({"ready": jax.devices()[0].device_kind}), flush=True)
    sys.stdin.readline()
    for row, measure in rows:
        try:
            row |= measure()
        except Exception as error:
            row["failure"] = f"{type(error).__name__}: {error}"[:400]
        print(json.dumps({"row": row}), flush=True)


class Process:
    """A part in a process, whose lines of JSON arrive in a queue; an empty dict is the end."""

    def __init__(self, script: Path, part: tuple[str, ...]) -> None:
        self.part = " ".join(part)
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        flags = " ".join([os.environ.get("XLA_FLAGS", ""), *(FLAGS[form] for form in part if form in FLAGS)])
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--part", *part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": flags},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            if line.startswith("{"):
                self.lines.put(json.loads(line))
        self.lines.put({})

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None if there is none for so long."""
        try:
            return self.lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def measure(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Lets the process measure and yields its rows; ends the process."""
        end = time.monotonic() + seconds
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        while line := self.next(end - time.monotonic()):
            yield line["row"]
        if line is None:
            yield {"part": self.part, "failure": "the measurement took too long"}
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def collect(end: float, script: Path, parts: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The device, if known, and a row for each part of a script that is measured or fails before the time ``end``."""
    device, waiting, running = "", list(parts), []
    while (waiting or running) and time.monotonic() < end:
        free = AHEAD - len(running)
        running, waiting = running + [Process(script, part) for part in waiting[:free]], waiting[free:]
        until, ready = min(end, time.monotonic() + ROUND), []
        for process in list(running):
            line = process.next(until - time.monotonic())
            if line is None:  # it still compiles
                continue
            running.remove(process)
            if "ready" in line:
                device = line["ready"]
                ready.append(process)
            else:
                process.end()
                yield device, line.get("row", {"part": process.part, "failure": "the process ended"})
        for process in running:
            process.process.send_signal(signal.SIGSTOP)
        for process in ready:
            for row in process.measure(min(PATIENCE, end - time.monotonic())):
                yield device, row
        for process in running:
            process.process.send_signal(signal.SIGCONT)
    for process in running:
        process.end()
    left = [*(process.part for process in running), *(" ".join(part) for part in waiting)]
    if left:
        yield device, {"parts": left, "failure": "no time was left"}


def run_parts(
    description: str | None, script: Path, parts: Sequence[tuple[str, ...]], work: Callable[..., None], limit: float
) -> None:
    """Measures the part of the command line by ``work(*part)``, or starts a process for each and writes their rows."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--limit", type=float, default=limit, help="seconds")
    parser.add_argument("--part", nargs="+", help="measure this part in this process; waits for a line of input")
    options = parser.parse_args()
    if options.part:
        return work(*options.part)
    began, rows = time.monotonic(), []
    for device, row in collect(began + options.limit, script, parts):
        rows.append(row)
        print(f"{time.monotonic() - began:6.1f} s {row}", flush=True)
        options.out.write_text(json.dumps({"device": device, "jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    run_parts(__doc__, Path(__file__), PARTS, work, 90.0)
