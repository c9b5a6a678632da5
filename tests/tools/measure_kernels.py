"""Times the decoding kernels in Mosaic, Triton and plain JAX on one Hopper GPU, and writes a row for each.

    PYTHONPATH=. python tests/tools/measure_kernels.py OUT.json --limit 120
    PYTHONPATH=. python tests/tools/measure_kernels.py OUT.json --limit 100 --only attention

The sizes are those of Qwen2.5 0.5B, 1.5B and 7B. A time is the mean of calls in a loop on the device, as in decoding;
attention has as many layers as it takes to exceed the cache of the GPU. Each result is compared with plain JAX in
float32. A process measures and a second one watches it: a form that fails or hangs becomes a row with its error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.kernels import block_sums_mosaic, decode_attention_mosaic
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.block_sums import block_sums
from r1jax.kernels.decode_attention import Context, decode_attention
from r1jax.kernels.platform import Kernels
from r1jax.models import rotary
from r1jax.models.config import ModelConfig
from tests.tools.watched import watch

PATIENCE = 40  # seconds without a row, after which a process is killed
AHEAD = 8  # programs that are compiled at the same time
CACHE = 150e6  # bytes of keys and values that a loop reads at least
# Model, slots, key and value heads, queries of each, numbers of a head, ring, and tokens in the ring.
ATTENTION = (
    ("0.5B", 512, 2, 7, 64, 512, 256),
    ("0.5B", 32, 2, 7, 64, 1024, 512),
    ("0.5B", 128, 2, 7, 64, 1024, 400),
    ("1.5B", 256, 2, 6, 128, 512, 256),
    ("1.5B", 32, 2, 6, 128, 1024, 512),
    ("0.5B", 256, 2, 7, 64, 512, 256),
    ("0.5B", 64, 2, 7, 64, 1024, 512),
    ("7B", 32, 4, 7, 128, 1024, 512),
    ("1.5B", 32, 2, 6, 128, 32768, 4096),
    ("7B", 32, 4, 7, 128, 32768, 4096),
)
# Divisions of the work of attention in Mosaic other than the default: index of a size, and those to time.
SHAPES = (
    (0, ((1, 1, 1, 64, 64), (1, 1, 2), (1, 2, 1), (1, 1, 1, 64, 16), (1, 1, 1, 128), (1, 1, 3))),
    (1, ((1, 4, 3, 64, 64), (1, 2, 4), (1, 4, 1, 128), (2, 4, 2), (1, 4, 2))),
    (2, ((1, 2, 2), (1, 2, 1), (1, 3, 1), (1, 4, 1))),
    (3, ((1, 1, 2), (1, 2, 1))),
    (4, ((1, 2, 2), (1, 3, 1), (2, 3, 1))),
)
NORMS = ((512, 896), (32, 896), (256, 1536), (32, 1536), (32, 3584))  # slots, numbers of a token
SUMS = ((512, 151_936), (32, 151_936))  # slots, vocabulary


@dataclasses.dataclass
class Candidate:
    """A form of a kernel at a size: a program with operands, the bytes it must move, and a check of its result."""

    row: dict[str, Any]
    make: Callable[[], tuple[Any, ...]]  # a state, and other operands
    run: Callable[..., Any]  # a loop of ``calls``, from state and operands to the state
    calls: int
    bytes: float
    check: Callable[..., dict[str, jax.Array]]  # from state and operands to differences
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the module of the kernel


normals = jax.jit(jax.random.normal, static_argnames=("shape", "dtype"))


def normal(seed: int, *shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
    return normals(jax.random.key(seed), shape=shape, dtype=dtype)


def difference(got: jax.Array, want: jax.Array) -> jax.Array:
    """Norm of the difference, relative to the norm of the result in float32."""
    a, b = (x.astype(jnp.float32) for x in (got, want))
    return jnp.sqrt(((a - b) ** 2).sum() / (b**2).sum())


def attention(size: tuple[Any, ...], form: Kernels, shape: tuple[int, ...] | None = None) -> Candidate:
    model, S, G, heads, K, R, age = size
    of_layer = 2 * 2 * S * G * R * K
    layers = int(max(1, min(12, -(-CACHE // of_layer))))
    steps = (64 if form == "plain" else 512) // layers

    def make() -> tuple[Any, ...]:
        length, old = (jnp.full(S, x, jnp.int32) for x in (128, age))
        rings = [tuple(normal(10 * i + j, S, G, R, K) for j in (4, 5)) for i in range(layers)]
        return (
            (rings, [normal(6, S, G, heads, K) for _ in range(layers)]),
            normal(0, S, G, heads + 2, K),
            normal(1, G, heads + 2, K),
            rotary.tables(length + old, ModelConfig(head_dim=K)),
            [tuple(normal(10 * i + j, 32, G, 128, K) for j in (2, 3)) for i in range(layers)],
            Context(jnp.arange(S, dtype=jnp.int32) * 32 // S, length, old),
        )

    def run(state, qkv, bias, rotation, prefixes, context):
        def step(i, state):
            rings, _ = state
            layers = zip(prefixes, rings, strict=True)
            done = [decode_attention(qkv, bias, rotation, *layer, context, (age + i) % R, form) for layer in layers]
            return [ring for _, ring in done], [y for y, _ in done]

        return jax.lax.fori_loop(0, steps, step, state)

    def check(state, qkv, bias, rotation, prefixes, context):
        """All lengths of prompts and sequences, some of which wrap around the end of the ring."""
        slots, entry = jnp.arange(S, dtype=jnp.int32), jnp.int32(age // 2)
        context = Context(slots % 32, 1 + slots * 53 % 128, slots * 37 % (age + 1))
        prefix, ring = prefixes[0], state[0][0]
        y, written = decode_attention(qkv, bias, rotation, prefix, ring, context, entry, form)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (qkv, bias, rotation, prefix, ring))
        with jax.default_matmul_precision("highest"):
            want, want_ring = decode_attention(*wide, context, entry, "plain")
        ring_errors = [difference(a, b) for a, b in zip(written, want_ring, strict=True)]
        return {"error": difference(y, want), "ring_error": jnp.maximum(*ring_errors)}

    row = {"kernel": "decode_attention", "model": model, "slots": S, "ring": R, "tokens": 128 + age, "layers": layers}
    needed = 2 * 2 * S * G * (128 + age) * K
    division = None if shape is None else decode_attention_mosaic.Shape(*shape)
    constants = {} if division is None else {"shape_of": lambda *_: division}
    row |= {"form": form} | ({} if division is None else division._asdict())
    return Candidate(row, make, run, steps * layers, needed, check, constants)


def norm(size: tuple[int, int], form: Kernels) -> Candidate:
    (S, D), steps, unrolled = size, 500, 10

    def run(state, weight):
        def step(_, carry):
            for _ in range(unrolled):
                carry = add_norm(*carry, weight, 1e-6, form)
            return carry

        return jax.lax.fori_loop(0, steps, step, state)

    def check(state, weight):
        x, y = state
        got = add_norm(x, y, weight, 1e-6, form)
        want = add_norm(*(a.astype(jnp.float32) for a in (x, y, weight)), 1e-6, "plain")
        return {"error": jnp.maximum(*(difference(a, b) for a, b in zip(got, want, strict=True)))}

    row = {"kernel": "add_norm", "slots": S, "width": D, "form": form}

    def make() -> tuple[Any, ...]:
        return (normal(0, S, D), normal(1, S, D)), normal(2, D)

    return Candidate(row, make, run, steps * unrolled, 8 * S * D, check)


def sums(size: tuple[int, int], form: Kernels, constants: dict[str, int]) -> Candidate:
    S, V = size
    padded, steps = -(-V // 128) * 128, 100_000 // S

    def run(state):
        def step(i, state):
            tops, total = block_sums(state[0], form)
            return state[0].at[0, i].set(total[0, 0]), tops, total

        return jax.lax.fori_loop(0, steps, step, state)

    def make() -> tuple[Any, ...]:
        blank = jnp.zeros((S, padded // 128), jnp.float32)
        return ((4 * normal(0, S, padded, dtype=jnp.float32), blank, blank + 1),)

    def check(state):
        got, want = (block_sums(state[0], kernels) for kernels in (form, "plain"))
        return {"error": jnp.maximum(*(difference(a, b) for a, b in zip(got, want, strict=True)))}

    row = {"kernel": "block_sums", "slots": S, "vocabulary": V, "form": form, **constants}
    return Candidate(row, make, run, steps, 4 * S * padded, check, constants)


def attention_candidates() -> Iterator[Candidate]:
    """Mosaic and Triton at all sizes, then other divisions of the work."""
    for size in ATTENTION[:7]:
        for form in ("mosaic", "triton"):
            yield attention(size, form)
    for index, shapes in SHAPES:
        for shape in shapes:
            yield attention(ATTENTION[index], "mosaic", shape)
    for size in ATTENTION[7:]:
        for form in ("mosaic", "triton"):
            yield attention(size, form)


def candidates() -> Iterator[Candidate]:
    """The forms of the defaults first, then other constants of the kernels in Mosaic."""
    for form in ("mosaic", "triton", "plain"):
        for size in ATTENTION[:5]:
            yield attention(size, form)
        for size in SUMS:
            yield sums(size, form, {})
        for size in NORMS[:3]:
            yield norm(size, form)
    for size in ATTENTION[5:]:
        for form in ("mosaic", "triton"):
            yield attention(size, form)
    for constants in ({"STAGES": 6, "SHARED": 1}, {"STAGES": 2, "SHARED": 3}):
        yield sums(SUMS[0], "mosaic", constants)
    for size in NORMS[3:]:
        for form in ("mosaic", "triton"):
            yield norm(size, form)
    for size in ATTENTION[5:]:
        yield attention(size, "plain")


def work(chosen: list[Candidate], first: int) -> None:
    """Measures the candidates from the index ``first`` on, and prints a line of JSON for each."""

    def prepare(one: Candidate) -> Any:
        # Constants are read while tracing, which therefore happens here one program at a time.
        module = block_sums_mosaic if one.row["kernel"] == "block_sums" else decode_attention_mosaic
        with contextlib.ExitStack() as stack:
            for name, value in one.constants.items():
                stack.enter_context(mock.patch.object(module, name, value))
            operands = jax.eval_shape(one.make)
            programs = jax.jit(one.run, donate_argnums=0).lower(*operands), jax.jit(one.check).lower(*operands)
        return lambda: [program.compile() for program in programs]

    rest = chosen[first:]
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: list[Any] = []
        for place in range(len(rest) + AHEAD):
            if place < len(rest):
                try:
                    waiting.append(pool.submit(prepare(rest[place])))
                except Exception as error:
                    waiting.append(error)
            if place < AHEAD:
                continue
            index = place - AHEAD
            print(json.dumps({"index": first + index, "row": measured(rest[index], waiting[index])}), flush=True)
            waiting[index] = None


def measured(one: Candidate, program: Any) -> dict[str, Any]:
    """The row of a candidate whose program is being compiled."""
    try:
        if isinstance(program, Exception):
            raise program
        (run, check), (state, *operands) = program.result(), one.make()
        errors = {name: float(error) for name, error in check(state, *operands).items()}
        state = jax.block_until_ready(run(state, *operands))
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            state = jax.block_until_ready(run(state, *operands))
            seconds.append((time.perf_counter() - began) / one.calls)
        best = float(np.median(seconds))
        return one.row | {"microseconds": 1e6 * best, "gigabytes_per_s": one.bytes / best / 1e9} | errors
    except Exception as error:
        return one.row | {"failure": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Measures, or watches a process that does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds")
    parser.add_argument("--only", choices=("attention",), help="measure only these kernels, in more divisions")
    parser.add_argument("--first", type=int, help="measure in this process, from this form on")
    options = parser.parse_args()
    chosen = list(attention_candidates() if options.only else candidates())
    if options.first is None:
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        script = [__file__, str(options.out), *(["--only", options.only] if options.only else [])]
        watch(script, options.out, len(chosen), options.limit, PATIENCE, environment)
    else:
        print(json.dumps({"device": jax.devices()[0].device_kind}), flush=True)
        work(chosen, options.first)


if __name__ == "__main__":
    main()
