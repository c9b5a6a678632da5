"""Worker processes that compute rewards, with a deadline for each completion."""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Protocol

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, RewardError
from r1jax.rewards.config import RewardSpec
from r1jax.rewards.process import WorkerProcess

FULL_SCORE = 0.999  # a score above it is 1, up to rounding


@dataclasses.dataclass(frozen=True)
class Scores:
    """The rewards of N completions by R rules.

    values: [N, R] float32, without weights, NaN where a reward does not judge this kind of problem; a completion whose
      worker had to be killed or died has zeros.
    total: [N] float32, the weighted sum.
    names: R names.
    timeouts, crashes: completions that ran past the deadline, and that took their worker down.
    resolution: [N] float32, or one for all: totals that differ by less are not told apart (0: exact).
    """

    values: np.ndarray
    total: np.ndarray
    names: tuple[str, ...]
    timeouts: int
    crashes: int
    resolution: np.ndarray | float = 0.0

    @property
    def correct(self) -> np.ndarray:
        """[N] bool: whether "accuracy" is the full score 1; part credit, which some tasks give, is no right answer."""
        return self.values[:, self.names.index("accuracy")] > FULL_SCORE


class Scorer(Protocol):
    """What judges completions: a RewardPool, or r1jax.rewards.routing.RoutedRewards."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in the order of Scores.values."""
        ...

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, in their order."""
        ...

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """The score of each problem's answer by the problem's checker, NaN where it takes too long: [N]."""
        ...


class RewardPool:
    """Computes rewards in worker processes, from entering the context until leaving it.

    specs: the rewards, from parse_rewards.
    workers: processes; they start at once and load the rewards while the caller goes on.
    deadline: seconds for all rewards of one completion, from when a worker has begun on it.

    The workers import no jax, and end with this process in whatever way it ends.
    """

    def __init__(self, specs: Sequence[RewardSpec], workers: int, deadline: float) -> None:
        self._specs = tuple(specs)
        self._count = workers
        self._deadline = deadline
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in the order of Scores.values."""
        return tuple(spec.name for spec in self._specs)

    def __enter__(self) -> RewardPool:
        self._workers = [WorkerProcess(self._specs) for _ in range(self._count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            while self._workers:
                self._workers.pop().kill()

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, in their order; callable from any thread, one call after another.

        Raises:
          RewardError: where a reward raises or returns anything but one finite number.
        """
        values, lost = self._compute(list(zip(problems, completions, strict=True)), len(self._specs))
        weights = np.array([spec.weight for spec in self._specs], np.float32)
        return Scores(values, values @ weights, self.names, lost["timeout"], lost["crash"])

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """The score of each problem's answer by the problem's checker, without any reward: [N] float32.

        The deadline is that of a completion; NaN past it and where the worker died, 0 where the checker raises.
        """
        return self._compute(list(zip(problems, answers, strict=True)), 1, np.nan)[0][:, 0]

    def _compute(
        self, items: Sequence[tuple[Problem, Completion | str]], columns: int, lost_value: float = 0.0
    ) -> tuple[np.ndarray, collections.Counter[str]]:
        """Values of the items [N, columns] float32, and how many items ended a worker's use, by the reason."""
        with self._lock:
            if not self._workers:
                raise RuntimeError("the reward pool is closed: use it inside its with block")
            try:
                return self._distribute(items, np.full((len(items), columns), lost_value, np.float32))
            finally:
                # After an error or Ctrl-C some still work on items that nobody waits for any more.
                for i, worker in enumerate(self._workers):
                    if worker.item is not None:
                        self._replace(i)

    def _distribute(
        self, items: Sequence[tuple[Problem, Completion | str]], values: np.ndarray
    ) -> tuple[np.ndarray, collections.Counter[str]]:
        waiting, missing = collections.deque(range(len(items))), len(items)
        lost = collections.Counter[str]()
        while missing:
            for i, worker in enumerate(self._workers):
                if waiting and worker.phase == "idle":
                    if worker.give(waiting[0], items[waiting[0]]):
                        waiting.popleft()
                    else:
                        self._replace(i)
            busy = [worker for worker in self._workers if worker.phase != "idle"]
            left = min(worker.until for worker in busy) - time.monotonic()
            wait([worker.connection for worker in busy], max(0.0, left))
            for i, worker in enumerate(self._workers):
                item, outcome = worker.item, worker.advance(self._deadline)
                if outcome is None:
                    continue
                if item is None:
                    files = ", ".join(map(str, self._specs))
                    raise RewardError(f"a reward worker ended or hung while it loaded {files}: see what they import")
                if isinstance(outcome, str):
                    lost[outcome] += 1
                    self._replace(i)
                else:
                    values[item] = outcome
                missing -= 1
        return values, lost

    def _replace(self, i: int) -> None:
        self._workers[i].kill()
        self._workers[i] = WorkerProcess(self._specs)
