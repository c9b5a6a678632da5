"""The training loop with a state of one weight: saved, resumed and stopped."""

import dataclasses
import gc
import json
import os
import signal
from types import SimpleNamespace

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.stopping import Stopped
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.stopwatch import Stopwatch


@flax.struct.dataclass
class Sum:
    """A minimal state for the loop."""

    step: jax.Array
    total: jax.Array

    def saved(self):
        return {"total": self.total}, {"step": self.step}

    def restored(self, params, rest):
        return Sum(rest["step"], params["total"])

    def next_step(self):
        return dataclasses.replace(self, step=self.step + 1)

    def skipped_updates(self):
        return jnp.zeros((), jnp.int32)


START = Sum(jnp.zeros((), jnp.int32), jnp.zeros(()))


def fit(folder, steps=5, at=None, every=2, ended=lambda state: False):
    """Adds up step + 1 over the steps; ``at`` is called with the step in each."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), START)

    def step_fn(state, step):
        if at:
            at(step)
        total = state.total + step + 1
        return dataclasses.replace(state, total=total), {"loss": float(total)}

    with TrainingLoop(folder, "sum", steps, SaveConfig(every=every)) as loop:
        return loop.fit(loop.start(shapes, lambda: START), step_fn, ended)


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["skipped_updates"]) for row in rows]


def test_a_step_gives_a_state_and_a_row_and_the_last_one_is_saved(tmp_path):
    done = fit(tmp_path)
    assert int(done.step) == 5 and float(done.total) == 15 and int(START.step) == 0
    assert rows_of(tmp_path) == [(0, 1, 0), (1, 3, 0), (2, 6, 0), (3, 10, 0), (4, 15, 0)]
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [4, 5]
    seen = []
    assert float(fit(tmp_path, steps=7, at=seen.append).total) == 28 and seen == [5, 6]


def test_a_failure_resumes_from_the_last_checkpoint_and_repeats_no_row(tmp_path):
    def fail(step):
        if step == 3:
            raise KeyError("killed")

    with pytest.raises(KeyError):
        fit(tmp_path, at=fail)
    assert [step for step, *_ in rows_of(tmp_path)] == [0, 1, 2]
    seen = []
    assert float(fit(tmp_path, at=seen.append).total) == 15 and seen == [2, 3, 4]
    assert rows_of(tmp_path) == [(0, 1, 0), (1, 3, 0), (2, 6, 0), (3, 10, 0), (4, 15, 0)]


def test_a_stop_ends_after_the_step_and_saves_it(tmp_path, capsys):
    def stop(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped after step 3 of 5"):
        fit(tmp_path, at=stop, every=10)
    seen = []
    fit(tmp_path, at=seen.append)
    assert seen == [3, 4] and "SIGTERM" in capsys.readouterr().err


def test_training_ends_early_with_a_state_that_is_saved(tmp_path):
    asked = []

    def ended(state):
        asked.append(int(state.step))
        return float(state.total) >= 6

    done = fit(tmp_path, every=10, ended=ended)
    assert (int(done.step), float(done.total), asked) == (3, 6, [0, 1, 2, 3])
    assert [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["3"]
    seen = []
    again = fit(tmp_path, at=seen.append, ended=ended)  # ended before: no step
    assert (int(again.step), seen, asked[4:]) == (3, [], [3])
    assert float(fit(tmp_path, at=seen.append).total) == 15 and seen == [3, 4]


def test_a_stopwatch_adds_up_calls_and_begins_again(monkeypatch):
    now = iter(np.arange(0.0, 8.0))
    monkeypatch.setattr("r1jax.training.stopwatch.time", SimpleNamespace(perf_counter=lambda: float(next(now))))
    watch = Stopwatch()
    double = watch.timed("double", lambda x: 2 * x)
    assert [double(1), double(2)] == [2, 4]
    assert watch.take() == {"double": 2.0} and watch.take() == {}


def test_garbage_collections_leave_out_what_the_first_step_has_made(tmp_path):
    before, frozen = gc.get_freeze_count(), []
    fit(tmp_path, steps=3, at=lambda step: frozen.append(gc.get_freeze_count() - before))
    assert frozen[0] == 0 and min(frozen[1:]) > 10_000
    assert gc.get_freeze_count() == 0
