"""The figures of one timed part of a benchmark."""

from __future__ import annotations

from r1jax.models.cost import Cost


def part_figures(seconds: float, tokens: int, cost: Cost, flops: float, bandwidth: float) -> dict[str, float]:
    """Compares a time with the minimum time at the rates flops (FLOP/s) and bandwidth (bytes/s) of the devices."""
    floor = cost.seconds(flops, bandwidth)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "floor_seconds": floor,
        "times_floor": seconds / floor,
        "flops_utilisation": cost.flops / seconds / flops,
    }
