"""The training loop of all stages: restore, step, log, save, and stop on request."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import jax

from r1jax.checkpoints.native import Checkpoints
from r1jax.errors import UserError
from r1jax.settings import may_change
from r1jax.sharding import Params
from r1jax.stopping import Stopped, StopRequest
from r1jax.training.metrics import MetricsWriter
from r1jax.training.progress import ProgressBar
from r1jax.training.tracking import entered_tracking


@dataclasses.dataclass(frozen=True)
class SaveConfig:
    """Which checkpoints are written and kept."""

    every: int = may_change(50)
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = may_change(2)
    """Newest checkpoints to keep."""
    keep_best: int = may_change(1)
    """Best checkpoints by mean reward to keep in addition."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep_last < 1 or self.keep_best < 0:
            raise UserError("save: every and keep-last must be at least 1 and keep-best at least 0")


class Resumable(Protocol):
    """A frozen training state that can be saved and restored: TrainState, or a larger one around it."""

    @property
    def step(self) -> jax.Array:
        """Steps done: [] int32."""
        ...

    def saved(self) -> tuple[Params, dict[str, Any]]:
        """The two parts of a checkpoint: the weights, and all else."""
        ...

    def restored(self, params: Params, rest: dict[str, Any]) -> Self:
        """The state that the two parts of a checkpoint hold."""
        ...

    def next_step(self) -> Self:
        """The same state with one step more done."""
        ...

    def skipped_updates(self) -> jax.Array:
        """Updates skipped so far because their gradient was not finite: [] int32."""
        ...


State = TypeVar("State", bound=Resumable)


@contextlib.contextmanager
def frozen_objects() -> Iterator[None]:
    """Garbage collections in this context leave out the objects that exist at its start.

    These are the hundreds of thousands of JAX and of compiled programs. A collection takes a tenth of a second with
    them, and the texts of one step cause several while the devices wait.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def restore(checkpoints: Checkpoints, shapes: State) -> State | None:
    """The newest readable checkpoint in the form of ``shapes`` (ShapeDtypeStructs with shardings), or None."""
    found = checkpoints.restore(*shapes.saved())
    return None if found is None else shapes.restored(*found[1:])


class TrainingLoop:
    """One training in one folder, with its checkpoints, its files of metrics and a progress bar; a context manager.

        with TrainingLoop(folder, name, steps, save) as loop:
            state = loop.start(shapes, lambda: init_state(params, optimizer, shapes), params)
            state = loop.fit(state, step_fn)

    Args:
      folder: of checkpoints and metrics.
      name: shown beside the progress bar.
      steps: at which training ends.
      save: which checkpoints are written and kept.
      keep_best: best checkpoints to keep, by the metric "reward".
    """

    def __init__(self, folder: Path, name: str, steps: int, save: SaveConfig, keep_best: int = 0) -> None:
        self._folder, self._name, self._steps, self._save = folder, name, steps, save
        self._keep_best = keep_best

    def __enter__(self) -> TrainingLoop:
        self._stack = contextlib.ExitStack()
        self._checkpoints = self._stack.enter_context(Checkpoints(self._folder, self._save.keep_last, self._keep_best))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def start(self, shapes: State, initial: Callable[[], State], weights: Any = None) -> State:
        """The newest checkpoint's state, or ``initial()`` if there is none; then frees ``weights``, a tree of arrays.

        Opens the files of metrics at the step of that state. shapes: the state as ShapeDtypeStructs with shardings.
        """
        state = restore(self._checkpoints, shapes)
        if state is None:
            state = initial()
        for weight in jax.tree.leaves(weights):
            weight.delete()
        self.writer = self._stack.enter_context(MetricsWriter(self._folder, int(state.step), entered_tracking()))
        return state

    def fit(
        self,
        state: State,
        step_fn: Callable[[State, int], tuple[State, dict[str, float]]],
        ended: Callable[[State], bool] = lambda state: False,
    ) -> State:
        """The state after the remaining steps; ``step_fn`` returns the next state and the metrics of a step.

        ended: called with the state before the first step and after each one; if it returns True, training ends with
        that state, which is saved.

        Raises:
          Stopped: on Ctrl-C and SIGTERM, after the current step has ended and been saved.
        """
        start, steps = int(state.step), self._steps
        with ProgressBar(self._name, steps, start) as progress, StopRequest() as stop, contextlib.ExitStack() as stack:
            over = ended(state)
            for step in range(start, steps):
                if over:
                    break
                began = time.perf_counter()
                state, row = step_fn(state, step)
                state = state.next_step()
                row |= {"skipped_updates": float(state.skipped_updates()), "seconds": time.perf_counter() - began}
                self.writer.write(step, row)
                if step == start:
                    stack.enter_context(frozen_objects())
                progress.update(step + 1, row)
                over = ended(state)
                last = stop.requested  # read once: a later signal ends the next step
                if (step + 1) % self._save.every == 0 or step + 1 == steps or over or last:
                    self.writer.sync()  # the rows of a step must be on disk before its checkpoint
                    self._checkpoints.save(step + 1, *state.saved(), {"reward": row.get("reward", -step)})
                if last:
                    break
            self._checkpoints.wait()
            if stop.requested:
                raise Stopped(f"stopped after step {int(state.step)} of {steps}", stop.number)
        return state
