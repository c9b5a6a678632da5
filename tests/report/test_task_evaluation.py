from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.report.finished_evaluations import ModelResults, TaskResult, distinct_names, shared_tasks
from r1jax.report.task_evaluation import comparison_rows, rows_of
from tests.helpers.evaluations import outcomes

NAMES = [f"problem {i}" for i in range(12)]


def results(name, folder="runs/evaluation/x", *, counted=True, **tasks):
    """The results of a model. tasks: task -> the number of right ones among 8 samples of each problem."""
    found = {}
    for task, right in tasks.items():
        names = NAMES if len(right) == len(NAMES) else [f"other {i}" for i in range(len(right))]
        evaluation = outcomes(np.array(right), names, ks=(1, 8))
        found[task] = TaskResult(task, Path(folder) / task, {"figures": {"counted": counted}}, evaluation)
    return ModelResults(name, Path(folder), found)


def test_a_row_has_the_figures_of_a_task() -> None:
    ((task, problems, samples, one, eight, vote, form, tokens, cut),) = rows_of(results("a", sums=[4] * 11 + [0]))
    assert (task, problems, samples, form, tokens, cut) == ("sums", "12", "8", "100.0", "10", "0.0")
    assert one.startswith("45.8 [") and eight.startswith("91.7 [") and vote.startswith("45.8 [")
    assert rows_of(results("a", counted=False, sums=[4] * 12))[0][7] == ""


def test_changes_are_paired_and_no_difference_is_called_so() -> None:
    hard, easy = [0, 8] * 6, [1, 8] * 6  # problems differ far more than models
    models = [results("a", sums=hard, words=hard), results("b", sums=easy, words=[8, 0] * 6), results("c", sums=[8])]
    (sums, words) = comparison_rows(models[:2], ["sums", "words"], "pass_at_1")
    assert sums[0] == "sums" and sums[3].startswith("+6.2 [") and "no difference" not in sums[3]
    assert words[3].startswith("+0.0 [") and words[3].endswith(", no difference")
    ((*_, other),) = comparison_rows([models[0], models[2]], ["sums"], "pass_at_1")
    assert other == "not comparable: on other problems"
    ((task, vote, _, _),) = comparison_rows(models[:2], ["sums"], "cons")
    assert task == "sums" and vote.startswith("50.0")


def test_models_are_told_apart_and_share_a_task() -> None:
    one, two = results("m", "runs/a/m", sums=[1]), results("m", "runs/b/m", sums=[1], words=[1])
    assert [found.name for found in distinct_names([one, two])] == ["a/m", "b/m"]
    assert [found.name for found in distinct_names([one, one])] == ["a/m (1)", "a/m (2)"]
    assert [found.name for found in distinct_names([one, results("n", sums=[1])])] == ["m", "n"]
    assert shared_tasks([two, one]) == ["sums"]
    with pytest.raises(UserError, match="no task was finished by all models"):
        shared_tasks([one, results("n", words=[1])])
