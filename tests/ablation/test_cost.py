"""The measurement of several trainings at once, with a loop of formulas and a clock of its own."""

import itertools
import types

import pytest

from r1jax.ablation import cost, train
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.errors import UserError
from tests.helpers.ablation import CONFIG, FakeLoop


def test_rows_compare_seconds_per_step_with_those_of_one_training(monkeypatch):
    """A call takes 1 s for one training and 2 s for four; the first call of each is not counted."""
    calls = []
    # Before and after the compilation and each of two calls, for 1 and for 4 trainings.
    ticks = itertools.accumulate([0, 5, 0, 9, 0, 1, 0, 6, 0, 9, 0, 2])
    monkeypatch.setattr(cost, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(cost, "make_loop", lambda model, problems, spec, held_out: FakeLoop(spec, calls))
    problems = load_problems(ProblemsConfig(train_size=20, held_out_size=5))
    one, four = cost.measure(CONFIG, (4, 1), 0, None, problems)
    assert calls == [(0, 2, 1), (2, 2, 1), (0, 2, 4), (2, 2, 4)]
    assert (one["trainings"], one["seconds_first_call"], one["seconds_per_step"], one["times_one"]) == (1, 9, 0.5, 1)
    assert (four["trainings"], four["seconds_first_call"], four["seconds_per_step"], four["times_one"]) == (4, 9, 1, 2)
    assert (one["seconds_compilation"], four["seconds_compilation"]) == (5, 6)
    assert four["tokens_per_second"] == 4 * 2 / 2
    assert four["program_gibibytes"] == pytest.approx(1402 / 2**30)


def test_trainings_that_do_not_fit_are_refused_with_the_number_to_measure(monkeypatch):
    """A program needs 1,000 bytes, 100 for each training, and one for each of two steps of a call."""
    monkeypatch.setattr(cost, "make_loop", lambda model, problems, spec, held_out: FakeLoop(spec, []))
    monkeypatch.setattr(train, "free_bytes", lambda: 1450)
    problems = load_problems(ProblemsConfig(train_size=20, held_out_size=5))
    with pytest.raises(UserError, match=r"6 trainings at once need .* 4 fit, give --measure 4$"):
        list(cost.measure(CONFIG, (6,), 0, None, problems))
