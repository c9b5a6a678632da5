"""Memory of the devices."""

from __future__ import annotations

import jax

from r1jax.sharding import entered_mesh


def peak_bytes() -> int:
    """The largest number of bytes in use on a device of the entered mesh since the process started.

    0 if the devices do not report it, as CPUs do not. Memory that the allocator has reserved but not given out does not
    count.
    """
    devices = [device for device in entered_mesh().devices.flatten() if device in jax.local_devices()]
    return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices)
