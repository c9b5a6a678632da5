"""The peak memory that a stage of RL reports."""

import contextlib
import types

import pytest

from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.recipe import reasoning_rl
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig


@pytest.mark.parametrize(("before", "after", "peak"), [(5, 9, {"peak_bytes": 9}), (9, 9, {}), (0, 0, {})])
def test_the_peak_memory_is_reported_if_training_reached_it(before, after, peak, tmp_path, monkeypatch):
    """An evaluation of the base in the same process may have used more; a CPU reports 0."""
    model = types.SimpleNamespace(tokenizer=ByteTokenizer(), config=types.SimpleNamespace(context_length=4096))
    peaks = iter((before, after))
    monkeypatch.setattr(reasoning_rl, "load_model", lambda *_: model)
    monkeypatch.setattr(reasoning_rl, "rule_rewards", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(reasoning_rl, "train_policy", lambda *_, **__: None)
    monkeypatch.setattr(reasoning_rl, "totals", lambda *_: {})
    monkeypatch.setattr(reasoning_rl, "peak_bytes", lambda: next(peaks))
    settings = ReasoningRLSettings(
        rl=RLConfig(steps=3),
        problems=ProblemsConfig(train_size=4, held_out_size=4),
        template="think",
        sampling=Sampling(max_tokens=8),
        verifier=VerifierConfig(),
        seed=0,
        save=SaveConfig(),
    )
    assert reasoning_rl_stage(settings, {"policy": tmp_path}, tmp_path) == {"steps": 3, **peak}
