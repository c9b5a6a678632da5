from types import SimpleNamespace

import numpy as np

from r1jax.training import memory


def test_the_peak_is_that_of_the_fullest_device_of_this_process_and_0_if_unknown(monkeypatch):
    reported = ({"peak_bytes_in_use": 5}, None, {})
    devices = [SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in reported]
    elsewhere = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 99})
    monkeypatch.setattr(memory.jax, "local_devices", lambda: devices)

    def peak(*found):
        monkeypatch.setattr(memory, "entered_mesh", lambda: SimpleNamespace(devices=np.array(found)))
        return memory.peak_bytes()

    assert peak(*devices, elsewhere) == 5 and peak(*devices[1:]) == 0
