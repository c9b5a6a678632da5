from __future__ import annotations

import jax
import pytest

from r1jax.evaluation.evaluate import equal_parts
from r1jax.sharding import make_mesh


@pytest.mark.parametrize(
    ("problems", "samples", "mesh", "parts"),
    [
        (128, 8, "1x1", 2),  # 512 sequences each
        (128, 4, "1x1", 1),
        (128, 64, "1x1", 4),
        (97, 64, "1x1", 1),  # a part of another size would be compiled by itself
        (96, 64, "8x1", 4),
        (24, 128, "8x1", 3),  # eight problems a part, one a device; four parts would leave devices without any
        (100, 64, "8x1", 4),  # the devices share one queue in any case
    ],
)
def test_an_evaluation_is_sampled_in_equal_parts_that_fill_every_device(problems, samples, mesh, parts) -> None:
    with jax.set_mesh(make_mesh(mesh)):
        assert equal_parts(problems, samples) == parts
