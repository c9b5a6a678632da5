"""The trainings of one compiled program, in chunks of steps, from a folder that a killed process has left."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoints.native import Checkpoints
from r1jax.disk import replacing
from r1jax.evaluation.estimators import pass_at_k
from r1jax.stopping import Stopped, StopRequest
from r1jax.training.progress import ProgressBar

_FIGURES = "figures.npz"  # of the steps up to the checkpoint, or beyond it
_SECONDS = "seconds"


class Loop(Protocol):
    """Trains N arms in one compiled program (r1jax.ablation.in_graph)."""

    def start(self, values: Mapping[str, Any], seeds: Any) -> Any:
        """The states before the first step. values: setting -> [N]. seeds: [N] int32."""
        ...

    def run(
        self, states: Any, values: Mapping[str, Any], first_step: int, steps: int
    ) -> tuple[Any, Mapping[str, jax.Array]]:
        """The states after ``steps`` steps from ``first_step`` on, and metrics: name -> [N, steps]."""
        ...

    def evaluate(self, states: Any) -> Mapping[str, Any]:
        """Figures of the held-out problems, name -> [N], and "correct" [N, problems, samples] bool."""
        ...

    def bytes_of(self, arms: int, steps: int) -> int:
        """Bytes of device memory for N = ``arms`` and runs of ``steps`` steps."""
        ...


@dataclasses.dataclass(frozen=True)
class Part:
    """N trainings that one compiled program runs at once."""

    name: str  # in front of its progress, and in messages
    values: Mapping[str, np.ndarray]  # setting -> [N] float32
    seeds: np.ndarray  # [N] int32


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a part has measured so far."""

    metrics: Mapping[str, np.ndarray]  # name -> [N, steps]
    before: Mapping[str, np.ndarray]  # name -> [N]
    after: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> [N]; {} until the last step
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return min((values.shape[1] for values in self.metrics.values()), default=0)

    def up_to(self, step: int) -> Figures:
        """The figures when ``step`` steps were done."""
        after = self.after if step == self.steps else {}
        return dataclasses.replace(self, metrics={k: v[:, :step] for k, v in self.metrics.items()}, after=after)

    def with_steps(self, metrics: Mapping[str, Any], seconds: float) -> Figures:
        """The figures with the metrics of further steps: name -> [N, steps]."""
        new = {name: np.asarray(values) for name, values in metrics.items()}
        joined = {k: np.concatenate([self.metrics[k], v], axis=1) if self.metrics else v for k, v in new.items()}
        return dataclasses.replace(self, metrics=joined, after={}, seconds=self.seconds + seconds)


def is_finished(folder: Path | None, steps: int) -> bool:
    """True if a folder has the figures of all steps and of the evaluations."""
    figures = None if folder is None else _read(folder / _FIGURES)
    return figures is not None and figures.steps == steps and bool(figures.after)


def train_part(loop: Loop, part: Part, steps: int, every: int, folder: Path | None) -> Figures:
    """Trains all of a part for ``steps`` steps, ``every`` of them in one call of the compiled program.

    folder: states and figures are saved there after each call, and the same arguments resume from them; None saves
    nothing.

    Raises:
      Stopped: on Ctrl-C and SIGTERM, after the current call has ended and been saved.
    """
    if folder is None:
        return _train(loop, part, steps, every, None)
    with Checkpoints(folder, keep_last=2, keep_best=0) as checkpoints:
        return _train(loop, part, steps, every, checkpoints)


def _train(loop: Loop, part: Part, steps: int, every: int, checkpoints: Checkpoints | None) -> Figures:
    figures = None if checkpoints is None else _read(checkpoints.folder / _FIGURES)
    if figures is not None and figures.after and figures.steps == steps:
        return figures
    states, step = _start(loop, part, checkpoints)
    if figures is None:
        began = time.perf_counter()
        figures = Figures({}, _evaluated(loop, states), seconds=time.perf_counter() - began)
    figures = figures.up_to(step)
    with ProgressBar(part.name, steps, step) as progress, _stop_request(checkpoints) as stop:
        while step < steps:
            began, count = time.perf_counter(), min(every, steps - step)
            states, metrics = loop.run(states, part.values, step, count)
            metrics = _on_host(metrics)
            seconds, step = time.perf_counter() - began, step + count
            figures = figures.with_steps(metrics, seconds)
            _save(checkpoints, step, states, figures)
            progress.update(step, _shown(metrics, seconds))
            if stop is not None and stop.requested:
                if checkpoints is not None:
                    checkpoints.wait()
                raise Stopped(f"{part.name}: stopped after step {step} of {steps}", stop.number)
    began = time.perf_counter()
    after = _evaluated(loop, states)
    figures = dataclasses.replace(figures, after=after, seconds=figures.seconds + time.perf_counter() - began)
    if checkpoints is not None:
        checkpoints.wait()
        _write(checkpoints.folder / _FIGURES, figures)
    return figures


def _stop_request(checkpoints: Checkpoints | None) -> contextlib.AbstractContextManager[StopRequest | None]:
    """A request to stop if there is a folder to resume from; otherwise a signal ends the training at once."""
    return contextlib.nullcontext() if checkpoints is None else StopRequest()


def _start(loop: Loop, part: Part, checkpoints: Checkpoints | None) -> tuple[Any, int]:
    """The states of the newest checkpoint and its step, or the states before the first step."""
    states = loop.start(part.values, part.seeds)
    if checkpoints is None or not checkpoints.steps():
        return states, 0
    leaves, structure = jax.tree.flatten(states)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves]
    names = list(_named(states))
    for leaf in leaves:
        leaf.delete()
    found = checkpoints.restore(dict(zip(names, shapes, strict=True)), {"step": jnp.zeros((), jnp.int32)})
    if found is None:
        return loop.start(part.values, part.seeds), 0
    step, restored, _ = found
    return jax.tree.unflatten(structure, [restored[name] for name in names]), step


def _save(checkpoints: Checkpoints | None, step: int, states: Any, figures: Figures) -> None:
    if checkpoints is not None:
        _write(checkpoints.folder / _FIGURES, figures)  # before the checkpoint, which must not be ahead of it
        checkpoints.save(step, _named(states), {"step": jnp.int32(step)}, {})


def _named(states: Any) -> dict[str, jax.Array]:
    """The arrays of states by their paths, since the files of a checkpoint know dicts only."""
    leaves = jax.tree_util.tree_leaves_with_path(states)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _evaluated(loop: Loop, states: Any) -> dict[str, np.ndarray]:
    """Figures of the held-out problems [N], with pass@n for the n samples of each problem beside accuracy, pass@1."""
    figures = _on_host(loop.evaluate(states))
    correct = figures.pop("correct")  # [N, problems, n]
    n = correct.shape[2]
    return figures | {f"pass_at_{n}": np.array([pass_at_k(one, n).mean() for one in correct], np.float32)}


def _on_host(values: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in jax.device_get(dict(values)).items()}


def _shown(metrics: Mapping[str, np.ndarray], seconds: float) -> dict[str, float]:
    """The mean reward of the last step, and tokens per second of all trainings."""
    row = {"reward": float(np.nanmean(metrics["reward"][:, -1]))} if "reward" in metrics else {}
    return row | ({"tokens_per_second": float(metrics["tokens"].sum()) / seconds} if "tokens" in metrics else {})


def _write(path: Path, figures: Figures) -> None:
    parts = {"metrics": figures.metrics, "before": figures.before, "after": figures.after}
    arrays = {f"{part}/{name}": values for part, named in parts.items() for name, values in named.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{_SECONDS: np.float64(figures.seconds)})


def _read(path: Path) -> Figures | None:
    if not path.exists():
        return None
    parts: dict[str, dict[str, np.ndarray]] = {"metrics": {}, "before": {}, "after": {}}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            part, _, name = key.partition("/")
            if name:
                parts[part][name] = file[key]
        return Figures(**parts, seconds=float(file[_SECONDS]))
