"""Times attention of rows that hold several texts, forward and backward, on one Hopper GPU.

    PYTHONPATH=. python tests/tools/measure_segments.py OUT.json --limit 60

Heads are those of Qwen2.5 0.5B and 1.5B; a row has texts of lognormal lengths (median 256, sigma 1). The forms:

- mask: cuDNN with a mask of all pairs of positions.
- packed: ``--attention packed``, each text by itself.
- blocks: plain JAX in blocks, the form of long rows, with blocks of 512 and of 1,024.
- causal: cuDNN without segments, which computes something else, for comparison.

Errors are relative norms of the difference from plain JAX in float32, of the result and of the gradients of queries,
keys and values, for short rows. "alone" is true if the result of one text is the same, bit by bit, when all other texts
change; "gradients_alone" says so of the gradients, and "repeatable" of gradients computed twice, since cuDNN adds in no
fixed order. "temporary_gibibytes" are those of the compiled program. A form that fails becomes a row with its error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.workload import timed
from r1jax.kernels.packed_attention import packed_attention
from r1jax.models import segment_attention
from r1jax.pipeline.manifest import versions

TOKENS = 23_040  # of the rows of a call, at least one
QUEUED = 5  # calls that are timed together, so that the device does not wait for the host
MODELS = {"0.5B": (14, 2, 64), "1.5B": (12, 2, 128)}
FORMS = ("mask", "packed", "blocks of 512", "blocks of 1024", "causal")


def texts(rows: int, width: int) -> np.ndarray:
    """Numbers of texts from 1, [rows, width] int32; a text that does not fit is cut, and 0 is padding."""
    rng, found = np.random.default_rng(width), np.zeros((rows, width), np.int32)
    for row in found:
        at, number = 0, 0
        while at < width - 16:
            number += 1
            length = int(np.clip(rng.lognormal(np.log(256), 1.0), 16, width))
            row[at : at + length] = number
            at += length
    return found


def attention(form: str, segments: jax.Array) -> Callable[..., jax.Array]:
    """A function of queries, keys and values."""
    seen = segments[:, None, :, None] == segments[:, None, None]

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scale = q.shape[3] ** -0.5
        if form == "packed":
            return packed_attention(q, k, v, segments, scale)
        if form.startswith("blocks"):
            return segment_attention.blockwise_attention(q, k, v, segments, scale)
        mask = seen if form == "mask" else None
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")

    return attend


def exact(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, segments: jax.Array) -> tuple[jax.Array, ...]:
    """Result and gradients in float32, a row at a time."""

    def one(row: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        q, k, v, g, segments = (x[None] for x in row)
        seen = segments[:, None, :, None] == segments[:, None, None]
        y, back = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x, mask=seen, is_causal=True), q, k, v)
        return tuple(x[0] for x in (y, *back(g)))

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, (*(x.astype(jnp.float32) for x in (q, k, v, g)), segments))


def both(form: str) -> Callable[..., tuple[jax.Array, ...]]:
    """Result and gradients of q, k, v for the gradient g."""

    def run(q: Any, k: Any, v: Any, g: Any, segments: Any) -> tuple[jax.Array, ...]:
        y, back = jax.vjp(attention(form, segments), q, k, v)
        return y, *back(g)

    return run


def figures(form: str, arguments: tuple[jax.Array, ...], want: tuple[jax.Array, ...] | None) -> dict[str, Any]:
    """Time, memory, errors and the check that texts do not affect each other."""
    size = int(form.split()[-1]) if form.startswith("blocks") else segment_attention.BLOCK
    began = time.monotonic()
    with mock.patch.object(segment_attention, "BLOCK", size):
        run: Any = jax.jit(both(form)).lower(*arguments).compile()
    found = {"compile_seconds": time.monotonic() - began}
    got = run(*arguments)
    seconds = timed(lambda: [run(*arguments) for _ in range(QUEUED)], 3) / QUEUED
    found |= {"ms": 1e3 * seconds, "temporary_gibibytes": run.memory_analysis().temp_size_in_bytes / 2**30}
    if form == "causal":
        return found
    *operands, segments = arguments
    own = (segments == 2)[..., None, None]
    other = [jnp.where(own, x, 3 * x[..., ::-1] + 1).astype(x.dtype) for x in operands]

    def same(others: tuple[jax.Array, ...], where: Any = True) -> list[bool]:
        pairs = zip(got, others, strict=True)
        return [bool((jnp.where(where, x, 0) == jnp.where(where, y, 0)).all()) for x, y in pairs]

    found["alone"], *found["gradients_alone"] = same(run(*other, segments), own)
    found["repeatable"] = same(run(*arguments))[1:]
    found["finite"] = all(bool(jnp.isfinite(x).all()) for x in got)
    if want is not None:
        pairs = zip(got, want, strict=True)
        found["errors"] = [float(jnp.linalg.norm(jnp.ravel(x - y)) / jnp.linalg.norm(jnp.ravel(y))) for x, y in pairs]
    return found


def parts(small: bool) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Model, positions of a row, and forms, the most important ones first."""
    forms = ("blocks of 512",) if small else FORMS
    for width, model in ((1152, "0.5B"), (32_768, "0.5B"), (4096, "0.5B"), (640, "0.5B"), (1152, "1.5B")):
        yield model, width if not small else 640, forms
    for width in (32_768, 4096, 16_384, 640):
        yield "1.5B", width if not small else 640, forms


def main() -> None:
    """Writes the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=float, default=60.0)
    options, began = parser.parse_args(), time.monotonic()
    small, rows = jax.default_backend() != "gpu", []
    for model, width, forms in parts(small):
        (H, G, K), B = MODELS[model], max(1, (640 if small else TOKENS) // width)
        keys = jax.random.split(jax.random.key(0), 4)
        made = [
            jax.random.normal(key, (B, width, n, K), jnp.bfloat16) for key, n in zip(keys, (H, G, G, H), strict=True)
        ]
        segments = texts(B, width)
        arguments = (*made, jnp.asarray(segments))
        want = jax.jit(exact)(*arguments) if width <= 1152 else None
        for form in forms:
            if time.monotonic() - began > options.limit:
                return
            row = {"model": model, "rows": B, "width": width, "texts": int(segments.max(axis=1).sum()), "form": form}
            try:
                row |= figures(form, arguments, want)
            except Exception as error:  # cuDNN refuses, or memory does not suffice: the other forms count
                row["error"] = str(error).splitlines()[0][:200]
            rows.append(row)
            print(row, flush=True)
            device = jax.devices()[0].device_kind
            options.file.write_text(json.dumps({"device": device, **versions("jax", "jaxlib"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
