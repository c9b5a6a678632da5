"""Times forms of the grouped products of moe-16b on one Hopper GPU, and writes a row for each.

    PYTHONPATH=. python tests/tools/measure_grouped_products.py OUT.json

The forms are the kernels with several sizes of tiles, the kernels that JAX has as examples, and lax.ragged_dot. The
sizes in r1jax/kernels/grouped_mosaic.py were chosen by such rows. In training there are 98,304 rows (16,384 tokens with
6 experts each), in decoding 384 (64 slots), divided at random among 64 groups of matrices 2,048 x 1,408.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.kernels.grouped_mosaic import FEW_ROWS, MANY_ROWS, OUTER, Blocks, outer_kernel, product_kernel
from r1jax.models.grouped_products import ragged_product

D, F, E = 2048, 1408, 64
PRODUCT = (
    MANY_ROWS,
    Blocks(128, 256, "columns"),
    Blocks(256, 128, "rows"),
    Blocks(256, 128, "rows", depth=128, stages=2),
    Blocks(128, 128, "rows", stages=6),
)
DECODING = (FEW_ROWS, Blocks(64, 128, "columns", stages=8), Blocks(64, 128, "columns", depth=128))
OUTERS = (OUTER, Blocks(128, 256, "rows"), Blocks(128, 128, "rows", stages=6), Blocks(256, 128, "rows", 128, 2))


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape, jnp.bfloat16)


def milliseconds(run, *args):
    """The median of seven rounds of calls that are queued on the device."""
    jax.block_until_ready(run(*args))
    rounds = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready([run(*args) for _ in range(10)])
        rounds.append((time.perf_counter() - began) / 10)
    return 1e3 * float(np.median(rounds))


def library_forms():
    """The kernels among JAX's examples, whose module needs the package absl-py."""
    from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot
    from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import transposed_ragged_dot

    sizes = {"block_n": 128, "block_k": 64, "grid_block_n": 1}
    product = partial(ragged_dot, block_m=128, max_concurrent_steps=4, **sizes)
    decoding = partial(ragged_dot, block_m=64, max_concurrent_steps=8, **sizes)
    outer = partial(transposed_ragged_dot, block_m=128, max_concurrent_steps=4, **sizes)
    return [lambda x, w, sizes, form=form: form(x, w, group_sizes=sizes) for form in (product, decoding, outer)]


def main(out):
    rows = []

    def add(kind, form, run, a, b, sizes):
        try:
            ms = milliseconds(jax.jit(run), a, b, sizes)
        except Exception as error:  # the other forms are measured all the same
            rows.append({"kind": kind, "form": form, "error": f"{type(error).__name__}: {error}"[:300]})
        else:
            tflops, weights = 2 * len(a) * D * F / ms / 1e9, 2 * E * D * F / ms / 1e6
            rows.append({"kind": kind, "form": form, "ms": ms, "tflops": tflops, "weights_gigabytes_per_s": weights})
        print(rows[-1], flush=True)
        figures = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": rows}
        Path(out).write_text(json.dumps(figures, indent=1) + "\n")

    rng = np.random.default_rng(0)
    many, few = (jnp.asarray(rng.multinomial(rows, [1 / E] * E), jnp.int32) for rows in (98_304, 384))
    gate, down = draw(1, E, D, F), draw(2, E, F, D)
    x, y = draw(3, 98_304, D), draw(4, 98_304, F)
    library = library_forms()
    products = {"gate": (x, gate, False), "down": (y, down, False), "dx": (y, gate, True), "dhidden": (x, down, True)}
    for kind, (a, w, transposed) in products.items():
        for blocks in PRODUCT:
            add(kind, str(blocks), partial(product_kernel, transposed=transposed, blocks=blocks), a, w, many)
    for kind, operands in (("dw of gate", (x, y)), ("dw of down", (y, x))):
        for blocks in OUTERS:
            add(kind, str(blocks), partial(outer_kernel, blocks=blocks), *operands, many)
    for kind, w in (("decoding gate", gate), ("decoding down", down)):
        a = draw(5, 384, w.shape[1])
        for blocks in DECODING:
            add(kind, str(blocks), partial(product_kernel, blocks=blocks), a, w, few)
        add(kind, "jax's example", library[1], a, w, few)
        add(kind, "ragged_dot", ragged_product, a, w, few)
    add("gate", "jax's example", library[0], x, gate, many)
    add("dw of gate", "jax's example", library[2], x, y, many)
    add("gate", "ragged_dot", ragged_product, x, gate, many)


if __name__ == "__main__":
    main(sys.argv[1])
