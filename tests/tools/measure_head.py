"""Times the output head on one Hopper GPU, with kernels and without, and writes a row for each part.

    PYTHONPATH=. python tests/tools/measure_head.py OUT.json --limit 100

The sizes are those of Qwen2.5 0.5B and 1.5B, with tied embeddings. Log-probabilities are those of 32,768 tokens. Errors
are relative norms of the difference from plain JAX in float32; "present_error" is that of the present form. No part
runs while others are compiled. A process measures and a second one watches it: a part that fails or
hangs becomes a row with its error, and the next parts are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.kernels import head_mosaic
from r1jax.kernels.head import Head
from r1jax.kernels.platform import Kernels, runs_here
from r1jax.models.precision import einsum_f32
from r1jax.sampling.decode import Weights
from r1jax.sampling.head import kernel_token
from r1jax.sampling.processors import Sampling, sample_token
from tests.tools.watched import watch

PATIENCE = 75  # seconds without a line, after which a process is killed
TOGETHER = 16  # parts that are compiled at the same time, before they run
CHUNK = 8192
STEPS = 50  # of decoding in a call
OTHER_PIECES = ({"STAGES": 3, "LOGITS_BYTES": 128}, {"STAGES": 3, "LOGITS_BYTES": 128, "LOGITS_SLOTS": 4})
LARGE, SMALL = 5, 20  # calls of a whole pass and of a kernel that are timed; the median counts


@dataclasses.dataclass
class Part:
    """A program with operands, the operations of its products, and a check of its result."""

    row: dict[str, Any]
    make: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    flop: float = 0.0
    constants: dict[str, int] = dataclasses.field(default_factory=dict)


def normal(seed: int, *shape: int, scale: float = 1.0, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jax.jit(lambda key: (scale * jax.random.normal(key, shape)).astype(dtype))(jax.random.key(seed))


def operands(B: int, T: int, D: int, V: int) -> tuple[jax.Array, ...]:
    """States, the embedding, targets, and gradients of log-probabilities and entropies; logits of deviation 3."""
    h, embedding = normal(0, B, T, D), normal(1, V, D, scale=3 / D**0.5)
    targets = jax.random.randint(jax.random.key(2), (B, T), 0, V)
    return h, embedding, targets, normal(3, B, T, dtype=jnp.float32), normal(4, B, T, scale=0.1, dtype=jnp.float32)


def values(head: Head, chunk: int, temperature: float, h: Any, embedding: Any, targets: Any, *_: Any) -> Any:
    return token_logprobs(h, embedding.T, targets, temperature, chunk, head)


def both(head: Head, chunk: int, temperature: float, h: Any, embedding: Any, targets: Any, *gradients: Any) -> Any:
    found, back = jax.vjp(lambda h, e: values(head, chunk, temperature, h, e, targets), h, embedding)
    return found, back(gradients)


def alone(head: Head, chunk: int, temperature: float, h: Any, embedding: Any, targets: Any, *gradients: Any) -> Any:
    """As ``both``, without a gradient of the entropies: a chunk of all tokens is then computed once."""

    def weighted(h: Any, e: Any) -> Any:
        found = values(head, chunk, temperature, h, e, targets)
        return (found[0] * gradients[0]).sum(), found

    back, found = jax.grad(weighted, argnums=(0, 1), has_aux=True)(h, embedding)
    return found, back


def differences(form: Callable[..., Any], chunk: int, *arguments: Any) -> dict[str, Any]:
    """The errors of the kernels and of the present form; tokens fill the last tile of a chunk partly."""
    names = ("logp", "entropy", "states", "embedding")
    h, embedding, *rest = arguments
    with jax.default_matmul_precision("highest"):
        want = form("plain", 256, 0.7, h.astype(jnp.float32), embedding.astype(jnp.float32), *rest)

    def errors(head: Head) -> list[jax.Array]:
        got = form(head, chunk, 0.7, *arguments)
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        return [jnp.sqrt(((a.astype(jnp.float32) - b) ** 2).sum() / (b**2).sum()) for a, b in pairs]

    return {
        "error": dict(zip(names, errors("columns"), strict=True)),
        "present_error": dict(zip(names, errors("plain"), strict=True)),
    }


def parts(small: bool) -> list[Part]:
    """Errors first, then the kernels alone, whole passes in both forms, and other constants."""
    found = []
    N, V = (768, 512) if small else (32_768, 151_936)
    chunk = 256 if small else CHUNK
    widths = (("0.5B", 128), ("1.5B", 192)) if small else (("0.5B", 896), ("1.5B", 1536))

    for model, D in widths:
        for kept, form, size in ((False, both, 256), (True, alone, 1024)):
            row = {"part": "errors", "model": model, "kept": kept}
            found.append(Part(row, partial(operands, 2, 250, D, V), partial(differences, form, size)))
    forms: tuple[Head, ...] = ("columns", "plain")
    for model, D in widths:
        whole = partial(operands, 64, N // 64, D, V)
        kept = {"part": "forward and backward", "model": model, "kernel": True, "tokens": N, "chunk": N, "kept": True}
        found.append(Part(kept, whole, partial(alone, "columns", N, 1.0), 6.0 * N * D * V))
        for name, run, products in (("forward", values, 1), ("forward and backward", both, 4)):
            for form in forms:
                row = {"part": name, "model": model, "kernel": form != "plain", "tokens": N, "chunk": chunk}
                found.append(Part(row, whole, partial(run, form, chunk, 1.0), products * 2.0 * N * D * V))
    model, D = widths[0]
    row = {"part": "forward and backward", "model": model, "kernel": True, "tokens": N, "chunk": 2 * chunk}
    found.append(
        Part(
            row,
            whole := partial(operands, 64, N // 64, D, V),
            partial(both, "columns", 2 * chunk, 1.0),
            8.0 * N * D * V,
        )
    )

    def one(D: int) -> tuple[jax.Array, ...]:
        return normal(0, chunk, D), normal(1, V, D, scale=3 / D**0.5), normal(2, 3, chunk, dtype=jnp.float32)

    def moments(h: Any, embedding: Any, rows: Any) -> Any:
        return head_mosaic.block_moments_kernel(h, embedding, True, 1.4)

    def gradient(h: Any, embedding: Any, rows: Any) -> Any:
        return head_mosaic.logits_gradient_kernel(h, embedding, rows, True, 1.4)

    def product(h: Any, embedding: Any, rows: Any) -> Any:
        return jnp.einsum("nd,vd->nv", h, embedding)  # in bfloat16: the rate of the library

    def by_rows(h: Any, embedding: Any, rows: Any) -> Any:
        return head_mosaic.block_moments_kernel(h, embedding.reshape(h.shape[1], -1), False, 1.4)

    for model, D in widths:
        for name, run in (
            ("moments", moments),
            ("gradient", gradient),
            ("product", product),
            ("moments by rows", by_rows),
        ):
            found.append(
                Part({"part": name, "model": model, "tokens": chunk}, partial(one, D), run, 2.0 * chunk * D * V)
            )
    model, D = widths[0]
    for constants in ({"PENDING": 1}, {"PENDING": 1, "AHEAD": 1}, {"AHEAD": 1}, {"AHEAD": 4}):
        for name, run in (("moments", moments), ("gradient", gradient)):
            row = {"part": name, "model": model, "tokens": chunk, **constants}
            # A new function, since a trace with other constants is kept for the same one.
            found.append(Part(row, partial(one, D), partial(run), 2.0 * chunk * D * V, constants))
    for slots, (model, D) in ((512, widths[0]), (256, widths[0]), (256, widths[1])):
        found += draws(model, head_mosaic.TILE if small else slots, D, V)
    return found


def draws(model: str, slots: int, D: int, V: int) -> list[Part]:
    """Head and draw of a step of decoding: one kernel, and a product with block sums in each form; STEPS at a time."""

    def make() -> tuple[jax.Array, ...]:
        bits = jax.random.bits(jax.random.key(2), (slots, 2))
        return normal(0, slots, D), normal(1, V, D, scale=3 / D**0.5), bits

    def run(kernels: Kernels | None, h: jax.Array, embedding: jax.Array, bits: jax.Array) -> Any:
        def step(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            h, bits = carry
            if kernels is None:
                token, logprob, _ = kernel_token(
                    Weights({"embedding": embedding}, (), h), h, bits, "columns", Sampling()
                )
            else:
                token, logprob, _ = sample_token(einsum_f32("sd,vd->sv", h, embedding), bits, Sampling(), kernels)
            return h.at[:, 0].set(logprob.astype(h.dtype)), bits + token[:, None].astype(bits.dtype)

        return jax.lax.fori_loop(0, STEPS, step, (h, bits))

    def compare(h: jax.Array, embedding: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        got = kernel_token(Weights({"embedding": embedding}, (), h), h, bits, "columns", Sampling(temperature=0.7))
        want = sample_token(einsum_f32("sd,vd->sv", h, embedding), bits, Sampling(temperature=0.7))
        same = got[0] == want[0]
        return {"same_tokens": same.mean(), "logprob_error": jnp.where(same, jnp.abs(got[1] - want[1]), 0.0).max()}

    row = {"part": "draw", "model": model, "slots": slots}
    forms: list[Kernels] = [kernels for kernels in ("mosaic", "triton", "plain") if runs_here(kernels)]
    rows = [(row | {"kernel": True}, None), *((row | {"kernel": False, "block_sums": x}, x) for x in forms)]
    flop = STEPS * 2.0 * slots * D * V
    timed = [Part(one | {"steps": STEPS}, make, partial(run, kernels), flop) for one, kernels in rows]
    for constants in OTHER_PIECES:
        timed.append(
            Part(row | {"kernel": True, "steps": STEPS, **constants}, make, partial(run, None), flop, constants)
        )
    return [Part(row | {"part": "draw errors"}, make, compare), *timed]


def work(first: int, small: bool) -> None:
    """Measures the parts from the index ``first`` on, and prints a line of JSON for each."""
    rest = parts(small)[first:]

    def lowered(one: Part) -> Any:
        # Constants are read while tracing, which therefore happens here one program at a time.
        with contextlib.ExitStack() as stack:
            for name, value in one.constants.items():
                stack.enter_context(mock.patch.object(head_mosaic, name, value))
            return jax.jit(one.run).lower(*jax.eval_shape(one.make))

    for start in range(0, len(rest), TOGETHER):
        together, waiting = rest[start : start + TOGETHER], []
        with ThreadPoolExecutor(TOGETHER) as pool:
            for one in together:
                try:
                    waiting.append(pool.submit(lowered(one).compile))
                except Exception as error:
                    waiting.append(error)
        print(json.dumps({"compiled": start + len(together)}), flush=True)
        for index, (one, program) in enumerate(zip(together, waiting, strict=True), first + start):
            print(json.dumps({"index": index, "row": measured(one, program)}), flush=True)


def measured(one: Part, program: Any) -> dict[str, Any]:
    """The row of a part with its compiled program."""
    try:
        if isinstance(program, Exception):
            raise program
        run, arguments = program.result(), one.make()
        first = jax.block_until_ready(run(*arguments))
        if not one.flop:
            return one.row | jax.tree.map(float, first)
        del first
        seconds = []
        for _ in range(LARGE if one.row["part"].startswith("forward") else SMALL):
            began = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            seconds.append(time.perf_counter() - began)
        best = float(np.median(seconds))
        return one.row | {"milliseconds": 1e3 * best, "teraflop_per_s": one.flop / best / 1e12}
    except Exception as error:
        return one.row | {"failure": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Measures, or watches a process that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=float, default=100.0, help="seconds")
    parser.add_argument("--first", type=int, help="measure in this process, from this part on")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script; kernels fail on a CPU")
    options = parser.parse_args()
    if options.first is None:
        script = [__file__, str(options.out), *(["--small"] if options.small else [])]
        with tempfile.TemporaryDirectory() as cache:
            environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_COMPILATION_CACHE_DIR": cache}
            watch(script, options.out, len(parts(options.small)), options.limit, PATIENCE, environment)
    else:
        print(json.dumps({"device": jax.devices()[0].device_kind}), flush=True)
        work(options.first, options.small)


if __name__ == "__main__":
    main()
