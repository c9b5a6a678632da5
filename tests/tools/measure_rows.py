"""Times the products of a decoding step with 256 and 512 rows on one Hopper GPU: kernels of several tiles, and cuBLAS.

    PYTHONPATH=. python tests/tools/measure_rows.py OUT.json --limit 120

A part is one product at one size with all its tiles, or the rollout of the 0.5B at 512 slots in one form. Parts have
processes as in measure_layer: several compile at the same time and then measure one after another. A time of a product
is the mean of calls with the matrices of up to 24 layers; "error" is that of its result, relative to float32.
"predicted" is the time at 1,755 MHz that the choice of tiles expects, with that of writing and reading parts, and
"chosen" says that it chooses these. Tiles are written as rows, columns, warpgroups, splits, and programs that share
columns and rows; "summed" adds parts within a cluster, "depth32" has half of the terms in a step, and "transposed" is
for a matrix [N, K]. Other tiles can be given for one product, which is measured when a line of input comes:

    PYTHONPATH=. python tests/tools/measure_rows.py --part product gated 0.5b 512 256,96,2,1,2,1 128,96,2,1,2,1

Forms of a rollout: ``plain`` without kernels for this number of rows, ``all`` with them, ``summed`` with those that add
parts within a cluster, and with those of one product.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure_layer as layer

from r1jax.kernels import more_rows_mosaic, platform
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.few_rows import whole
from r1jax.kernels.more_rows_mosaic import Tiles, cycles, multiply, tiles_of
from r1jax.models import attention, mlp
from r1jax.models.shapes import SHAPES
from r1jax.sampling.sampler import DECODING_OPTIONS

layer.MODELS["7b"] = "qwen2.5-7b"
LOOPS = 10
BYTES = 2 * 2**30  # of matrices
CLOCK = 1755.0  # MHz
HUNG, LONGEST = "R1JAX_HUNG", 30  # environment variable with tiles, and seconds of a setting
OF_PARTS = ("down", "output")
# The tiles that are measured, beside those that the rule chooses; the most promising first.
TILES = {
    ("gated", 512): """256,96,2,1,2,1 256,80,2,1,2,1,transposed 256,96,2,1,2,1,depth32 256,80,2,1,2,1,depth32,transposed
        256,96,2,1,1,2 256,80,2,1,1,2,transposed 256,96,2,1,2,2 256,80,2,1,2,1 128,64,2,1,2,1 256,96,2,1,1,1
        256,96,2,1,2,1,transposed""",
    ("down", 512): """128,128,2,4,2,1 128,128,2,4,2,1,summed 128,128,2,4,1,1,summed 128,128,2,4,2,2
        128,64,2,2,2,2,summed 128,64,2,2,2,1,summed 128,64,2,2,2,1 128,112,2,4,2,1,transposed 64,64,1,1,2,2
        128,128,2,4,1,1 128,128,2,3,2,1""",
    ("qkv", 512): """64,96,1,1,2,1 64,96,1,1,2,2 128,96,2,2,2,1,summed 128,64,2,1,2,1 64,64,1,1,2,1 128,64,2,1,2,2
        128,128,2,2,2,1,summed 64,72,1,1,1,2,transposed 128,96,2,1,2,1 64,96,1,1,1,1""",
    ("output", 512): """64,64,1,1,2,1 64,64,1,1,2,2 128,64,2,2,2,1,summed 128,128,2,4,1,1,summed 128,64,2,2,2,1
        64,56,1,1,1,2,transposed 128,128,2,4,2,1 128,64,2,1,2,1 64,64,1,1,1,1""",
    ("gated", 256): """128,96,2,1,2,1 128,80,2,1,2,1,transposed 256,64,2,1,1,1 256,96,2,1,1,2 128,64,2,1,2,1
        256,48,2,1,1,1,transposed""",
    ("down", 256): """64,128,1,4,2,1 64,128,1,4,2,1,summed 128,64,2,4,2,1 128,64,2,4,2,1,summed 64,64,1,2,2,1
        128,128,2,8,2,1""",
    ("qkv", 256): "64,64,1,1,2,1 64,64,1,2,2,1,summed 64,32,1,1,2,1 64,64,1,1,2,2 64,40,1,1,1,2,transposed",
    ("output", 256): "64,64,1,2,2,1 64,64,1,2,2,1,summed 64,64,1,1,2,1 64,32,1,1,2,1 64,56,1,1,1,2,transposed",
}
PRODUCTS = ("gated", "down", "qkv", "output")
# The most important parts first.
PARTS = (
    *[("product", name, "0.5b", "512") for name in PRODUCTS],
    *[("rollout", form) for form in ("plain", "all", "summed", "gated")],
    *[("product", name, "0.5b", "256") for name in PRODUCTS],
    *[("rollout", form) for form in ("qkv", "output", "down")],
    *[("sum", "0.5b", "512")],
    *[("product", name, "1.5b", "256") for name in PRODUCTS],
    ("product", "gated", "7b", "128"),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Tiles, and the layout of the matrix."""

    tiles: Tiles
    transposed: bool

    @staticmethod
    def parse(text: str) -> Setting:
        numbers = [part for part in text.split(",") if part.isdigit()]
        rows, columns, warpgroups, splits, *sharing = map(int, numbers)
        depth = 32 if "depth32" in text else 64
        tiles = Tiles(rows, columns, warpgroups, splits, (sharing[0], sharing[1]), "summed" in text, depth)
        return Setting(tiles, text.endswith("transposed"))

    def __str__(self) -> str:
        t = self.tiles
        numbers = t.rows, t.columns, t.warpgroups, t.splits, *t.sharing
        return (
            ",".join(map(str, numbers))
            + ",summed" * t.summed
            + ",depth32" * (t.depth == 32)
            + ",transposed" * self.transposed
        )


def of_product(name: str, model: str, rows: int, texts: Sequence[str]) -> Iterator[Any]:
    """A row for plain JAX and for each of the tiles, and what measures it; the program is compiled and has run once."""
    shape, plain, _ = layer.case(name, model)
    gated, (K, N) = name == "gated", shape
    N //= 1 + gated
    chosen = tiles_of(rows, K, N, 8 if name in OF_PARTS else 1, gated)
    settings = [Setting.parse(text) for text in texts or TILES.get((name, rows), "").split()]
    if not texts and Setting(chosen, False) not in settings:
        settings.insert(0, Setting(chosen, False))
    hung = os.environ.get(HUNG, "").split()
    x = layer.normal(0, 2, rows, K)
    layers = max(2, min(layer.LAYERS, BYTES // (2 * shape[0] * shape[1])))
    matrices = [layer.normal(i, *shape, scale=0.02) for i in range(layers)]
    turn = jax.jit(lambda w: w.T)
    with jax.default_matmul_precision("highest"):
        want = jax.jit(plain)(x[0].astype(jnp.float32), matrices[0].astype(jnp.float32))
    for setting in (None, *settings):
        row: dict[str, Any] = {"product": name, "model": model, "rows": rows}
        multiply_by: Callable[..., jax.Array] = plain
        used = matrices
        if setting is not None:
            t = setting.tiles
            row |= {"tiles": str(setting), "chosen": setting == Setting(chosen, False)}
            row["predicted"] = round(cycles(t, rows, K, N, gated) / CLOCK, 2)
            if str(setting) in hung:
                yield row, lambda: {"failure": "it hung"}
                continue
            dtype = jnp.float32 if t.splits > 1 and not t.summed else None
            multiply_by = partial(multiply, tiles=t, gated=gated, transposed=setting.transposed, dtype=dtype)
            used = [turn(w) for w in matrices] if setting.transposed else matrices
        ended = threading.Event()
        again = [*sys.argv[: sys.argv.index("--part") + 5], *map(str, settings)]
        threading.Thread(target=begin_again, args=(ended, [*hung, str(setting)], again), daemon=True).start()
        try:
            got = jax.jit(multiply_by, compiler_options=DECODING_OPTIONS)(x[0], used[0])
            got = got if got.ndim == 2 else whole(got, jnp.float32)
            row["error"] = layer.difference(got, want)
            measure = timed(multiply_by, x, used)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"[:300]
            yield row, lambda failure=failure: {"failure": failure}
            continue
        finally:
            ended.set()

        def figures(measure: Callable[[], float] = measure) -> dict[str, Any]:
            seconds = measure()
            return {"microseconds": 1e6 * seconds, "teraflops": 2 * rows * shape[0] * shape[1] / seconds / 1e12}

        yield row, figures


def begin_again(ended: threading.Event, hung: list[str], arguments: list[str]) -> None:
    """Replaces this process if a setting does not end; the new one leaves out those that hung."""
    for _ in range(LONGEST):  # in steps, since the process can be stopped
        if ended.wait(1.0):
            return
    os.execve(sys.executable, [sys.executable, *arguments], os.environ | {HUNG: " ".join(hung)})


def timed(multiply_by: Callable[..., jax.Array], x: jax.Array, matrices: list[jax.Array]) -> Callable[[], float]:
    """What measures the seconds of a product; the program is compiled and has run once."""
    blank = jax.eval_shape(multiply_by, x[0], matrices[0])

    def run(x: jax.Array, matrices: list[jax.Array]) -> Any:
        def step(i: jax.Array, _: Any) -> Any:  # the input depends on the step, so that no product leaves the loop
            return [multiply_by(x[i % 2], w) for w in matrices]

        return jax.lax.fori_loop(0, LOOPS, step, [jnp.zeros(blank.shape, blank.dtype)] * len(matrices))

    compiled = jax.jit(run).lower(x, matrices).compile(compiler_options=DECODING_OPTIONS)
    jax.block_until_ready(compiled(x, matrices))
    return lambda: layer.seconds_of(lambda: compiled(x, matrices)) / (LOOPS * len(matrices))


def of_sum(model: str, rows: int) -> Iterator[Any]:
    """The residual sum and its norm for each number of parts; 0 is a product in bfloat16."""
    D = SHAPES[layer.MODELS[model]].hidden_size
    x, weight = layer.normal(0, rows, D), layer.normal(2, D)
    for parts in (0, 2, 3, 4, 8):
        y = layer.normal(1, rows, D) if not parts else layer.normal(1, parts, rows, D).astype(jnp.float32)

        def run(x: jax.Array, y: jax.Array, weight: jax.Array) -> jax.Array:
            def step(_: jax.Array, x: jax.Array) -> jax.Array:
                for _layer in range(layer.LAYERS):
                    x = add_norm(x, y, weight, 1e-6, "mosaic")[1]
                return x

            return jax.lax.fori_loop(0, LOOPS, step, x)

        compiled = jax.jit(run).lower(x, y, weight).compile()
        jax.block_until_ready(compiled(x, y, weight))

        def measure(compiled: Any = compiled, y: jax.Array = y) -> dict[str, Any]:
            seconds = layer.seconds_of(lambda: compiled(x, y, weight)) / (LOOPS * layer.LAYERS)
            return {"microseconds": 1e6 * seconds}

        yield {"sum": model, "rows": rows, "parts": parts}, measure


def of_rollout(form: str) -> Iterator[Any]:
    """The rollout of the 0.5B at 512 slots with the attention of Triton."""
    more_rows_mosaic.SUMMED = form == "summed"
    if form != "plain":
        platform.FASTER = platform.FASTER | {"more rows"}
    kept = {"gated": (mlp, "gated_product"), "down": (mlp, "product_parts"), "qkv": (attention, "product")}
    kept |= {"output": (attention, "product_parts")}
    for name, (module, function) in kept.items():
        if form not in ("all", "summed", "plain", name):
            setattr(module, function, layer.case(name, "0.5b")[1])
    yield from layer.of_step("0.5b", form, 512, kernels="auto")


def work(part: list[str]) -> None:
    """Compiles a part, waits for a line of input, measures, and prints a line of JSON for each row."""
    kind, *rest = part
    try:
        if kind == "product":
            rows = list(of_product(rest[0], rest[1], int(rest[2]), rest[3:]))
        else:
            rows = list(of_rollout(rest[0]) if kind == "rollout" else of_sum(rest[0], int(rest[1])))
    except Exception as error:
        print(json.dumps({"row": {"part": " ".join(part), "failure": f"{type(error).__name__}: {error}"[:400]}}))
        return
    layer.measure_when_asked(rows)


def main() -> None:
    """Measures a part, or starts a process for each and writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds")
    parser.add_argument("--part", nargs="+", help="measure this part in this process; waits for a line of input")
    options = parser.parse_args()
    if options.part:
        return work(options.part)
    began, rows = time.monotonic(), []
    for device, row in layer.collect(began + options.limit, Path(__file__), PARTS):
        rows.append(row)
        print(f"{time.monotonic() - began:6.1f} s {row}", flush=True)
        options.out.write_text(json.dumps({"device": device, "jax": jax.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
