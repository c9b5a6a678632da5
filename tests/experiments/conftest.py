"""Fixtures: a finished run of R1-Zero, and a reward pool."""

import pytest

from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from tests.experiments.zero_command import start


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An uninterrupted run and its output."""
    out = tmp_path_factory.mktemp("experiment") / "run"
    process = start(out)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return out, stdout


@pytest.fixture(scope="module")
def pool():
    with RewardPool(parse_rewards(["length", "accuracy", "format"]), workers=1, deadline=5.0) as pool:
        yield pool
