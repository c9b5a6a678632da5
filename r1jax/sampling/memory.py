"""Memory estimates of sampling requests, and the choice of the number of slots."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from r1jax.errors import UserError
from r1jax.kernels.decode_attention import RING_CHUNK, kernels_of
from r1jax.models.attention import implementation
from r1jax.models.cache import ring_length
from r1jax.models.config import Experts, ModelConfig
from r1jax.models.experts import index_type
from r1jax.models.kinds import CacheShape
from r1jax.models.layers import cache_shapes, mtp_cache_shapes
from r1jax.models.shares import divides, shared_kv_heads
from r1jax.models.transformer import param_specs
from r1jax.sampling.processors import Sampling, draws_in_shares
from r1jax.sharding import Params, ParamSpec, compiler_mesh, data_devices, decoding_partition, is_spec

PREFILL_TOKENS = 16_384  # tokens in one prefill pass
NARROWEST = 32  # minimum number of slots of the last loop
SHORTEST = 2048  # tokens of the first rings, if completions may be longer


@dataclasses.dataclass(frozen=True)
class Level:
    """Rings of one length, and the number of slots for which there is memory with them."""

    slots: int  # over all devices
    length: int  # tokens for which a ring has room


@dataclasses.dataclass(frozen=True)
class Request:
    """A sampling request on the current mesh."""

    config: ModelConfig
    sampling: Sampling
    params: Params  # stored weights, or their shapes
    prompts: int  # number of distinct prompts, all of which are cached
    width: int  # tokens of each padded prompt
    sequences: int  # rows of the result
    keep_routing: bool = False  # with the experts of each token


def has_own_queues(prompts: int, sequences: int, config: ModelConfig | None = None) -> bool:
    """True if each position of the data axis of the current mesh has its own queue, and its devices their own programs.

    The data axis must divide the prompts, and the model axis the model (models.shares.divides). Otherwise the compiler
    splits one queue over all devices.

    config: the model; None: one that a model axis does not divide.
    """
    mesh = compiler_mesh()
    if mesh is None or mesh.size == 1 or mesh.shape["expert"] > 1:  # experts read tokens of all their devices
        return False
    if mesh.shape["model"] > 1 and (config is None or not divides(config, mesh.shape["model"])):
        return False
    return not prompts % mesh.shape["data"] and not sequences % prompts


def device_queues(prompts: int, sequences: int, config: ModelConfig | None = None) -> int:
    """Number of queues on the current mesh: one for each position of the data axis, or 1 if all devices share one."""
    mesh = compiler_mesh()
    return mesh.shape["data"] if mesh is not None and has_own_queues(prompts, sequences, config) else 1


def phases(slots: int, devices: int = 1, sampling: Sampling | None = None) -> tuple[int, ...]:
    """Numbers of slots of the successive decoding loops: each a quarter of the one before, at least 32 per device.

    If ``sampling`` has a draft for few sequences alone, a loop has as many.
    """
    widths = [-(-slots // devices)]
    while widths[-1] // 4 >= NARROWEST:
        widths.append(widths[-1] // 4)
    if sampling is not None and sampling.draft == "ngram":
        widths = sorted({*widths, min(sampling.draft_slots, widths[0])}, reverse=True)
    return tuple(width * devices for width in widths)


def ring_lengths(max_tokens: int) -> tuple[int, ...]:
    """Tokens for which the rings of successive levels have room: doubled from SHORTEST up to ``max_tokens``."""
    lengths = [SHORTEST]
    while lengths[-1] < max_tokens:
        lengths.append(2 * lengths[-1])
    return (*lengths[:-1], max_tokens)


def prefill_rows(prompts: int, width: int) -> int:
    """Prompts in one prefill pass."""
    return max(1, min(prompts, PREFILL_TOKENS // width))


def fixed_bytes(request: Request) -> dict[str, int]:
    """Bytes per device that do not depend on the number of slots, without the stored weights, by purpose.

    weights: copies that are gathered over the data axis and cast, unless they are stored like that, and the layers of
    decoding_layers, if the config copies them. prompts: their keys and values, as computed and per layer. prefill:
    activations of one pass. results: the rows of one device, and all rows, which every device has at the end.
    """
    config, size = request.config, _size(request.config)
    queues = device_queues(request.prompts, request.sequences, config)
    prompts, width = request.prompts // queues, request.width
    rows = prefill_rows(prompts, width)
    passes = -(-prompts // rows)
    computed = (passes + (passes > 1)) * rows  # the extra term is the current pass
    divide = queues == 1 and rows % data_devices() == 0
    spread = rows // data_devices() if divide else rows
    token = 6 * config.hidden_size + _feed_forward_numbers(config, divide) + _attention_numbers(config)
    scores = 2 * 4 * _shard(config.num_heads) * width if implementation(config) == "xla" else 0
    row = request.sampling.max_tokens * 12
    if request.sampling.proposals:
        row += 8  # the number of proposed and of accepted tokens
    if request.keep_routing:
        row += (width + request.sampling.max_tokens - 1) * _routing_bytes(config)
    return {
        "weights": _weight_bytes(request),
        "prompts": (computed + prompts) * width * (_entry(request) + _draft_entry(request)),
        "prefill": spread * width * (token * size + scores),
        "results": (request.sequences + request.sequences // queues) * row,
    }


def slot_bytes(request: Request, slots: int, length: int = 0) -> dict[str, int]:
    """Bytes for ``slots`` slots of a device, by purpose; monotonic in ``slots``.

    cache: the rings, and those of the next, narrower loop; with several levels, one layer of the next rings. logits:
    the logits, arrays computed from them, and activations. attention: scores, gathered prompts and, with latent
    attention, results of one layer, which plain JAX stores; and the texts in which a draft looks up tokens.

    length: tokens for which a ring has room; 0: those of the first level.
    """
    config, sampling, size = request.config, request.sampling, _size(request.config)
    lengths = ring_lengths(sampling.max_tokens)
    ring, entry = ring_length(length or lengths[0], config), _entry(request) + _draft_entry(request)
    if len(lengths) == 1:
        cache = sum(phases(slots, 1, sampling)[:2]) * ring * entry
    else:
        cache = slots * ring * (entry + entry // len(cache_shapes(config)))
    logits = 4 * _logits_numbers(request)
    activations = size * (6 * config.hidden_size + _feed_forward_numbers(config, True))
    gathered = 2 * request.width * _entry(request) // config.num_layers
    scores = 2 * 4 * _shard(config.num_heads) * (request.width + min(ring, RING_CHUNK))
    wide = 0 if config.latent is None else config.latent.kv_rank + config.latent.rope_dim
    results = 2 * 4 * _shard(config.num_heads) * wide  # over the prefix and over the ring
    drafting = {"none": 0, "mtp": slots, "ngram": min(slots, sampling.draft_slots)}[sampling.draft]
    block = 1 + sampling.proposals  # tokens of a slot in one step with a draft
    single = 0 if kernels_of(config) != "plain" or drafting == slots else slots * (gathered + scores + results)
    group = request.sequences // request.prompts
    texts = 8 * group * (request.width + sampling.max_tokens) if sampling.draft == "ngram" else 0
    return {
        "cache": cache,
        "logits": max(slots, drafting * block) * (logits + activations),
        "attention": max(single, drafting * (gathered + block * (scores + results) + texts)),
    }


def free_bytes() -> int:
    """Free bytes on the fullest device of the current mesh; for CPU devices, their share of the host's free memory."""
    mesh = jax.sharding.get_mesh()
    devices = jax.devices()[:1] if mesh.empty else [d for d in mesh.devices.flatten() if d in jax.local_devices()]
    stats = [d.memory_stats() for d in devices]
    if all(s and "bytes_limit" in s for s in stats):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats if s)
    return psutil.virtual_memory().available // len(devices)


def choose_slots(
    config: ModelConfig,
    sampling: Sampling,
    params: Params,
    *,
    prompts: int,
    width: int,
    sequences: int,
    keep_routing: bool = False,
    free: int | None = None,
) -> int:
    """The number of slots of the first level, which has the most; see choose_levels."""
    request = Request(config, sampling, params, prompts, width, sequences, keep_routing)
    return choose_levels(request, free)[0].slots


def choose_levels(request: Request, free: int | None = None) -> tuple[Level, ...]:
    """The levels of sampling: one if completions have at most SHORTEST tokens.

    The first one has the configured number of slots, or as many as sequences and memory allow. Later ones have as many
    as memory allows, at most those of the first. All devices of the data axis have the same number.

    A fifth of the memory for slots stays free, since other memory use changes from step to step. More than 8 slots per
    device are rounded down to a multiple of 8 for matrix units, unless there are as many slots as sequences; in later
    levels to a multiple of a quarter of a power of two, so that other steps compile few other programs.

    Args:
      request: what is sampled.
      free: bytes on each device; None: free_bytes().

    Raises:
      UserError: with the numbers, if the configured slots, or a single slot, need more memory than is free.
    """
    sampling, devices, free = request.sampling, data_devices(), free_bytes() if free is None else free
    fixed = fixed_bytes(request)
    left = free - sum(fixed.values())
    if left < 0:
        largest = max(fixed, key=lambda name: fixed[name])
        raise UserError(
            f"sampling needs {_gib(fixed)} per device with any number of slots, and {free / 2**30:.2f} GiB are free: "
            f"{_ADVICE[largest]}"
        )

    def bytes_of(slots: int, length: int) -> int:
        return sum(slot_bytes(request, slots, length).values())

    def most(budget: float, every: int, length: int) -> int:
        return bisect.bisect_right(range(1, every + 1), budget, key=lambda n: bytes_of(n, length))

    def checked(slots: int, length: int) -> Level:
        if bytes_of(slots, length) > left:
            fits = most(left, every, length)
            fits = (fits if fits == every or fits <= 8 else fits // 8 * 8) * devices
            advice = f"slots={fits} fits, or lower max-tokens" if fits else "lower max-tokens, or use more devices"
            raise UserError(
                f"sampling with {slots * devices} slots of {length} tokens needs per device "
                f"{_gib(slot_bytes(request, slots, length))} for the slots and {_gib(fixed)} for the rest, and "
                f"{free / 2**30:.2f} GiB are free: {advice}"
            )
        return Level(slots * devices, length)

    first, *longer = ring_lengths(sampling.max_tokens)
    every = -(-request.sequences // devices)
    slots = -(-min(sampling.slots, request.sequences) // devices)
    if not slots:
        slots = max(1, most(0.8 * left, every, first))
        slots = slots if slots == every or slots <= 8 else slots // 8 * 8
    levels = [checked(slots, first)]
    for length in longer:
        fits = max(1, most(0.8 * left, slots, length))
        unit = 1 if fits <= 8 or fits == slots else max(8, 1 << fits.bit_length() - 3)
        levels.append(checked(fits // unit * unit, length))
    return tuple(levels)


_ADVICE = {
    "weights": "keep fewer other arrays, or split the model over more devices, for example with --mesh=1x2",
    "prompts": "use fewer or shorter prompts per call, or more devices",
    "prefill": "use shorter prompts, or more devices",
    "results": "use fewer sequences per call, or lower max-tokens",
}


def _gib(parts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"{sum(parts.values()) / 2**30:.2f} GiB ({listed})"


def _size(config: ModelConfig) -> int:
    return jnp.dtype(config.dtype).itemsize


def _shard(size: int) -> int:
    """Size of a dimension on one device of the model axis; the whole size if it does not divide evenly."""
    shards = _model_axis()
    return size if size % shards else size // shards


def _model_axis() -> int:
    mesh = compiler_mesh()
    return 1 if mesh is None else mesh.shape["model"]


def _feed_forward_numbers(config: ModelConfig, divide: bool) -> int:
    """Numbers of one token that the feed-forward block of one layer has on a device.

    divide: the devices divide the tokens among them.
    """
    own, dense = config.experts, 3 * _shard(config.intermediate_size)
    if own is None:
        return dense
    copies = _copies(own) if divide else own.active
    rows = copies * 3 * (config.hidden_size + _shard(own.width))  # sorted inputs, hidden units, and results
    routed = rows + 3 * _shard(own.shared_width) + 4 * own.number
    return max(dense, routed) if own.dense_layers else routed


def _copies(own: Experts) -> int:
    """Rows that a device has room for, for each of its tokens: those of all devices may choose its experts."""
    mesh = compiler_mesh()
    devices = 1 if mesh is None else mesh.shape["expert"]
    return devices * min(own.active, own.number // devices)


def _attention_numbers(config: ModelConfig) -> int:
    """Numbers of one token that attention in one layer of prefill has on a device: queries, keys and values."""
    heads, own = _shard(config.num_heads), config.latent
    if own is None:
        return 3 * heads * config.head_dim
    compressed = own.query_rank + own.kv_rank + own.rope_dim
    return compressed + heads * (3 * max(config.head_dim, own.value_dim) + own.nope_dim + own.value_dim)


def _own_queues(request: Request) -> bool:
    return has_own_queues(request.prompts, request.sequences, request.config)


def _logits_numbers(request: Request) -> int:
    """Numbers of one token that a device has of its logits and of arrays computed from them."""
    config, sampling, own = request.config, request.sampling, _shard(request.config.vocab_size)
    copies = 5 if sampling.truncates else 3
    shares = config.vocab_size // own
    if shares > 1 and _own_queues(request) and not draws_in_shares(sampling, config.vocab_size, shares):
        return own + copies * config.vocab_size  # gathered
    return copies * own


def _entry(request: Request) -> int:
    """Bytes of what is kept of one token in all layers on a device."""
    config = request.config

    def heads(shape: CacheShape) -> int:
        if shape.heads and _own_queues(request):
            return shared_kv_heads(config, _model_axis())
        return _shard(shape.heads or 1)

    return _size(config) * sum(heads(shape) * shape.width for layer in cache_shapes(config) for shape in layer)


def _draft_entry(request: Request) -> int:
    """Bytes of what the layer of the draft keeps of one token on a device."""
    layers = mtp_cache_shapes(request.config)[:1] if request.sampling.draft == "mtp" else ()
    return _size(request.config) * sum(_shard(shape.heads or 1) * shape.width for layer in layers for shape in layer)


def _routing_bytes(config: ModelConfig) -> int:
    """Bytes of the experts of a token in all layers with experts."""
    own = config.experts
    if own is None:
        return 0
    return (config.num_layers - own.dense_layers) * own.active * jnp.dtype(index_type(config)).itemsize


def _weight_bytes(request: Request) -> int:
    config, mesh = request.config, compiler_mesh()

    def shard(shape: tuple[int, ...], split: Any) -> int:
        return math.prod(shape) // (1 if mesh is None else math.prod(mesh.shape[name] for name in split if name))

    def one(spec: ParamSpec, weight: Any) -> int:
        split = () if mesh is None else decoding_partition(spec, mesh)
        whole = shard(spec.shape, split)
        stored = weight.sharding.shard_shape(spec.shape) if getattr(weight, "sharding", None) else spec.shape
        gathered = weight.dtype == config.dtype and math.prod(stored) == whole
        layers = "layers" in spec.axes and config.copies_layers
        return whole * _size(config) * ((not gathered) + layers)

    specs = param_specs(config)
    return sum(jax.tree.leaves(jax.tree.map(one, specs, request.params, is_leaf=is_spec)))
