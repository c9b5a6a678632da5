"""The file of the reward that does what a completion says."""

from __future__ import annotations

import pytest

from tests.rewards.helpers import ACTOR


@pytest.fixture(scope="module")
def actor_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    path.write_text(ACTOR)
    return str(path)
