"""What a sampling request needs, before it is made."""

from __future__ import annotations

import jax
import psutil

from r1jax.errors import UserError
from r1jax.models.cache import ring_length
from r1jax.models.config import ModelConfig
from r1jax.models.cost import cache_entry_bytes
from r1jax.models.transformer import param_specs
from r1jax.sampling.processors import Sampling
from r1jax.sharding import param_count

_SIZES = {"float32": 4, "bfloat16": 2}


def sampling_bytes(
    config: ModelConfig, sampling: Sampling, *, prompts: int, width: int, sequences: int, slots: int
) -> dict[str, int]:
    """Bytes of a request on each device of the entered mesh, by what they are for; the dict's sum is the total.

    Slots are split over the data axis, heads, vocabulary and weights over the model axis; each device of the data axis
    has the weights whole, which decoding gathers, and prompts too where it has no queue of its own.

    Args:
      config: the model.
      sampling: gives the longest completion.
      prompts: distinct prompts, whose keys and values are all held.
      width: tokens each is padded to.
      sequences: rows of the result.
      slots: sequences decoded side by side.
    """
    mesh = jax.sharding.get_mesh()
    data, model = (1, 1) if mesh.empty else (mesh.shape["data"], mesh.shape["model"])
    size = _SIZES[config.dtype]
    entry = cache_entry_bytes(config, size) // (model if config.num_kv_heads % model == 0 else 1)
    own = slots // data if slots % data == 0 else slots
    truncating = sampling.top_k or sampling.top_p < 1
    return {
        "cache": own * ring_length(sampling.max_tokens) * entry,
        "prompts": 2 * prompts * width * entry,  # once as computed, once laid out by layer
        "logits": own * config.vocab_size // model * 4 * (5 if truncating else 3),
        "results": sequences * sampling.max_tokens * 12,
        "weights": 2 * param_count(param_specs(config)) // model * size,  # the tree, and its layers by themselves
    }


def free_bytes() -> int:
    """Bytes that may still be taken on the fullest device of the entered mesh; of the host's memory, a CPU's share."""
    mesh = jax.sharding.get_mesh()
    devices = jax.devices()[:1] if mesh.empty else [d for d in mesh.devices.flatten() if d in jax.local_devices()]
    stats = [d.memory_stats() for d in devices]
    if all(s and "bytes_limit" in s for s in stats):
        return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats if s)
    return psutil.virtual_memory().available // len(devices)


def choose_slots(config: ModelConfig, sampling: Sampling, *, prompts: int, width: int, sequences: int) -> int:
    """The slots asked for, or as many as there are sequences and memory for.

    Raises:
      UserError: when the slots asked for, or a single one, need more than is free, with the numbers.
    """

    def parts(slots: int) -> dict[str, int]:
        return sampling_bytes(config, sampling, prompts=prompts, width=width, sequences=sequences, slots=slots)

    slots = min(sampling.slots or sequences, sequences)
    free = free_bytes()
    if not sampling.slots:
        while slots > 1 and sum(parts(slots).values()) > 0.8 * free:
            slots = -(-slots // 2)
    need = parts(slots)
    if sum(need.values()) > free:
        listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in need.items())
        raise UserError(
            f"sampling with {slots} slots of {sampling.max_tokens} tokens needs {sum(need.values()) / 2**30:.2f} GiB "
            f"({listed}) and {free / 2**30:.2f} GiB are free: lower slots or max-tokens"
        )
    return slots
