"""The levels of isolation as a fixture."""

from __future__ import annotations

import pytest

from r1jax.rewards.code.config import LEVELS, Level
from r1jax.rewards.code.isolation import missing


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> Level:
    if reason := missing(request.param):
        pytest.skip(f"this system cannot give {request.param}: {reason}")
    return request.param
