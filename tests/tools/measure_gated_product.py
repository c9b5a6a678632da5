"""Times the gated product of a decoding step, and rollouts with 512 slots, on one Hopper GPU: kernels and cuBLAS.

    PYTHONPATH=. python tests/tools/measure_gated_product.py OUT.json --limit 60

Parts have processes as in measure_layer: one model at several numbers of rows, or the rollout of the 0.5B in one form.
A time of a product is the mean of calls with the matrices of 24 layers, and "error" that of its result, relative to
float32. Products: ``plain`` with a matrix [D, 2 F], ``transposed`` in plain JAX with [2 F, D], which the kernels read,
and ``kernel``, for more than 128 rows with the chosen tile first. Forms of a rollout: ``plain`` with matrices [D, 2 F],
``transposed``, and ``kernel`` with that of the gated product.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure_layer as layer

from r1jax.kernels import few_rows, few_rows_mosaic, platform
from r1jax.kernels.gated_product_mosaic import multiply, tile_of
from r1jax.sampling.sampler import DECODING_OPTIONS

SLOTS = 512
# The most important parts first: model and rows of products, and forms of rollouts.
PARTS = (
    ("product", "0.5b", "512"),
    *[("rollout", form) for form in ("kernel", "plain")],
    ("product", "0.5b", "256"),
    ("product", "0.5b", "32", "128"),
    ("product", "1.5b", "256"),
    ("rollout", "transposed"),
    ("product", "1.5b", "512"),
)
# Tiles that are measured beside the chosen ones.
TILES = {("0.5b", 512): [(256, 96)], ("0.5b", 256): [(128, 96)], ("1.5b", 256): [(128, 96)], ("1.5b", 512): [(256, 80)]}


def of_product(model: str, rows: int) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """A row for each form and tile, and what measures it; the program is compiled and has run once."""
    (width, terms), transposed, _ = layer.case("gated", model)
    x = layer.normal(0, 2, rows, terms)
    matrices = list(layer.normal(1, layer.LAYERS, width, terms, scale=0.02))
    with jax.default_matmul_precision("highest"):
        want = jax.jit(transposed)(x[0].astype(jnp.float32), matrices[0].astype(jnp.float32))
    forms: dict[str, Any] = {"plain": lambda x, w: transposed(x, w.T), "transposed": transposed}
    if few_rows_mosaic.supports(rows):
        forms["kernel"] = few_rows_mosaic.gated_product
    else:
        for tile in (tile_of(rows, terms, width // 2), *TILES.get((model, rows), [])):
            forms["kernel {} x {}".format(*tile)] = partial(multiply, tile=tile, interpret=None)
    for form, function in forms.items():
        used = [jax.jit(jnp.transpose)(w) for w in matrices] if form == "plain" else matrices
        got = jax.jit(function)(x[0], used[0])
        row = {"product": model, "rows": rows, "form": form, "error": layer.difference(got, want)}
        yield row, timed(function, x, used)


def timed(multiply_by: Callable[..., jax.Array], x: jax.Array, matrices: list[jax.Array]) -> Callable[[], Any]:
    """What measures a product; the program is compiled and has run once."""
    blank = jax.eval_shape(multiply_by, x[0], matrices[0])

    def run(x: jax.Array, matrices: list[jax.Array]) -> Any:
        def step(i: jax.Array, _: Any) -> Any:  # the input depends on the step, so that no product leaves the loop
            return [multiply_by(x[i % 2], w) for w in matrices]

        return jax.lax.fori_loop(0, layer.LOOPS, step, [jnp.zeros(blank.shape, blank.dtype)] * len(matrices))

    def figures() -> dict[str, Any]:
        seconds = layer.seconds_of(lambda: compiled(x, matrices)) / (layer.LOOPS * len(matrices))
        return {"microseconds": 1e6 * seconds, "teraflops": 2 * x.shape[1] * matrices[0].size / seconds / 1e12}

    compiled = jax.jit(run).lower(x, matrices).compile(compiler_options=DECODING_OPTIONS)
    jax.block_until_ready(compiled(x, matrices))
    return figures


def of_rollout(form: str) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The rollout of the 0.5B with the attention of Triton."""
    platform.FASTER = platform.FASTER - {"gated product"} | ({"gated product"} if form == "kernel" else set())
    if form == "plain":
        few_rows.chosen = lambda config: False
    yield from layer.of_step("0.5b", form, SLOTS, kernels="auto")


def work(kind: str, first: str, *rows: str) -> None:
    """Compiles a part, waits for a line of input, measures, and prints a line of JSON for each row."""
    try:
        found = [row for n in rows for row in of_product(first, int(n))] if kind == "product" else of_rollout(first)
        layer.measure_when_asked(list(found))
    except Exception as error:
        part = " ".join((kind, first, *rows))
        print(json.dumps({"row": {"part": part, "failure": f"{type(error).__name__}: {error}"[:400]}}))


if __name__ == "__main__":
    layer.run_parts(__doc__, Path(__file__), PARTS, work, 60.0)
