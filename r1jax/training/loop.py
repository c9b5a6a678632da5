"""The loop that every stage of training runs: resume, step, log, save, stop on request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from r1jax.checkpoints.native import Checkpoints
from r1jax.errors import UserError
from r1jax.settings import may_change
from r1jax.sharding import Params
from r1jax.stopping import Stopped, StopRequest
from r1jax.training.metrics import MetricsWriter
from r1jax.training.progress import ProgressBar
from r1jax.training.state import TrainState, skipped_updates


@dataclasses.dataclass(frozen=True)
class SaveConfig:
    """Which checkpoints are written and kept."""

    every: int = may_change(50)
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = may_change(2)
    """Newest checkpoints to keep."""
    keep_best: int = may_change(1)
    """Best checkpoints, by mean reward, to keep beside them."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep_last < 1 or self.keep_best < 0:
            raise UserError("save: every and keep-last must be at least 1 and keep-best at least 0")


@dataclasses.dataclass
class Carry:
    """What goes from step to step and into checkpoints: the state, and a reference policy where the loss has one."""

    state: TrainState
    reference: Params | None = None

    def rest(self) -> dict[str, Any]:
        """All but the parameters, for a checkpoint."""
        rest: dict[str, Any] = {"step": self.state.step, "opt_state": self.state.opt_state}
        return rest if self.reference is None else rest | {"reference": self.reference}


def restore(checkpoints: Checkpoints, shapes: Carry) -> Carry | None:
    """The newest readable checkpoint onto ``shapes`` (ShapeDtypeStructs with shardings); None where there is none."""
    found = checkpoints.restore(shapes.state.params, shapes.rest())
    if found is None:
        return None
    _, params, rest = found
    state = TrainState(step=rest["step"], params=params, opt_state=rest["opt_state"])
    return Carry(state, rest.get("reference"))


def run(
    carry: Carry,
    step_fn: Callable[[Carry, int], tuple[Carry, dict[str, float]]],
    *,
    steps: int,
    checkpoints: Checkpoints,
    save: SaveConfig,
    writer: MetricsWriter,
    progress: ProgressBar,
) -> Carry:
    """Runs step_fn from the carry's own step up to ``steps``, with a row of metrics and sometimes a save after each.

    Raises:
      Stopped: on Ctrl-C and SIGTERM, after the step under way has ended and been saved.
    """
    start = int(carry.state.step)
    with StopRequest() as stop:
        for step in range(start, steps):
            began = time.perf_counter()
            carry, row = step_fn(carry, step)
            carry.state = dataclasses.replace(carry.state, step=carry.state.step + 1)
            row["skipped_updates"] = float(skipped_updates(carry.state))
            row["seconds"] = time.perf_counter() - began
            writer.write(step, row)
            progress.update(step + 1, row)
            last = stop.requested  # asked once: a signal that comes later is left to the next step
            if (step + 1) % save.every == 0 or step + 1 == steps or last:
                writer.sync()  # the row must be there before the step that it speaks of can be resumed from
                checkpoints.save(step + 1, carry.state.params, carry.rest(), {"reward": row.get("reward", -step)})
            if last:
                break
        checkpoints.wait()
        if stop.requested:
            raise Stopped(f"stopped after step {int(carry.state.step)} of {steps}", stop.number)
    return carry
