"""The checkpoints that stages read, each once inside keep_models."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from r1jax.evaluation.task_samples import Drawn
from r1jax.models.config import ComputeOptions
from r1jax.recipe import loading, task_evaluation
from r1jax.recipe.loading import keep_models, load_model
from r1jax.report import task_evaluation as report
from r1jax.rewards import Completion
from tests.experiments.test_evaluate import SMALL, Judge, ok
from tests.helpers.paths import FIXTURES

PATH = FIXTURES / "llama_tied"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The checkpoints that are read from disk."""
    found: list[Any] = []
    load = loading.load

    def counted(path: Any, *rest: Any) -> Any:
        found.append(path)
        return load(path, *rest)

    monkeypatch.setattr(loading, "load", counted)
    return found


def test_a_checkpoint_is_read_once_for_each_type_and_freed_at_the_end(loads: list[Any]) -> None:
    with keep_models():
        one = load_model(PATH, ComputeOptions(), "float32")
        two = load_model(PATH, ComputeOptions(remat="block"), "float32")
        half = load_model(PATH, ComputeOptions(dtype="bfloat16"), "bfloat16")
        assert len(loads) == 2
        assert all(a is b for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True))
        assert (one.config.remat, two.config.remat) == ("none", "block")
        assert {x.dtype for x in jax.tree.leaves(half.params)} == {np.dtype("bfloat16")}
        held = weakref.ref(jax.tree.leaves(one.params)[0])
        del one, two, half
        assert held() is not None
    gc.collect()
    assert held() is None
    load_model(PATH, ComputeOptions(), "float32")
    load_model(PATH, ComputeOptions(), "float32")
    assert len(loads) == 4


def test_an_evaluation_reads_the_weights_of_a_model_once_for_all_tasks(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(model: Any, problems: Any, template: Any, sampling: Any, samples: int, *rest: Any) -> Any:
        one = Completion("4", 1, sampling.max_tokens, True, template)
        yield [Drawn((i, n), one, 1, 0.0) for i in range(len(problems)) for n in range(samples)]

    monkeypatch.setattr(task_evaluation, "model_samples", drawn)
    monkeypatch.setattr(task_evaluation, "rule_rewards", lambda *settings: Judge())
    for name in ("plot_tasks", "plot_tasks_at_k"):
        monkeypatch.setattr(report, name, lambda found, path, title: path.write_bytes(b""))
    ok("--model", PATH, *SMALL, "--tasks", "arithmetic,countdown,word-problems", "--out", tmp_path)
    assert len(loads) == 1 and len(list(tmp_path.glob("llama_tied/*/manifest.json"))) == 3
