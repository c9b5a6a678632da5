"""Worker processes that compute rewards, with a deadline for each completion."""

from __future__ import annotations

import collections
import selectors
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, RewardError
from r1jax.rewards.code.config import DEFAULT, CodeConfig
from r1jax.rewards.config import RewardSpec
from r1jax.rewards.process import WorkerProcess
from r1jax.rewards.progress import ITEMS
from r1jax.rewards.scores import Scores
from r1jax.rewards.worker import Item

# The pools of the standard library do not fit. Each completion needs its own deadline, a worker that hangs has to be
# killed with everything it started, and timeouts and crashes have to be counted per completion. An executor of
# concurrent.futures cannot stop a running task, and one dead worker breaks it; multiprocessing.Pool waits forever for
# the task of a dead worker. Both also run the main script again in each worker, or fork a process with JAX threads.


class RewardPool:
    """Computes rewards in worker processes, which start when the context is entered and end when it is left.

    specs: the rewards, from parse_rewards.
    workers: the number of processes; they load the rewards in the background.
    deadline: seconds for all rewards of one completion, counted from the start of their computation; those that the
      tests of a program take are added.
    code: how candidate programs are run.

    The workers do not import JAX, and end with this process, however it ends.
    """

    def __init__(self, specs: Sequence[RewardSpec], workers: int, deadline: float, code: CodeConfig = DEFAULT) -> None:
        self._specs = tuple(specs)
        self._count = workers
        self._deadline = deadline
        self._code = code
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in the order of Scores.values."""
        return tuple(spec.name for spec in self._specs)

    def __enter__(self) -> RewardPool:
        self._messages = selectors.DefaultSelector()
        self._workers = [self._new_worker() for _ in range(self._count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._messages.close()
            for worker in self._workers:
                worker.stop()
            while self._workers:
                self._workers.pop().kill()

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, in the same order. Thread-safe: concurrent calls run in turn.

        Raises:
          RewardError: if a reward raises, or does not return one finite number.
        """
        values, lost = self._compute(list(zip(problems, completions, strict=True)), len(self._specs))
        weights = np.array([spec.weight for spec in self._specs], np.float32)
        return Scores(values, values @ weights, self.names, lost["timeout"], lost["crash"])

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """[N] float32: the score of each answer by its problem's checker, without any other reward.

        The score is NaN if the checker passes the deadline of a completion or its worker dies, and 0 if it raises.
        """
        return self._compute(list(zip(problems, answers, strict=True)), 1, np.nan)[0][:, 0]

    def _compute(
        self, items: Sequence[Item], columns: int, lost_value: float = 0.0
    ) -> tuple[np.ndarray, collections.Counter[str]]:
        """Values of the items [N, columns] float32, and the numbers of "timeout" and "crash" items.

        lost_value: the values of items whose worker was killed or died.
        """
        with self._lock:
            if not self._workers:
                raise RuntimeError("the reward pool is closed: use it inside its with block")
            # Rewards depend on their arguments alone, and short completions of a question are often the same object.
            first: dict[tuple[int, int], int] = {}
            numbers = [first.setdefault((id(problem), id(given)), len(first)) for problem, given in items]
            _, places, copies = np.unique(numbers, return_index=True, return_counts=True)
            try:
                values, lost = self._distribute([items[i] for i in places], copies, columns, lost_value)
                return values[numbers], lost
            except BaseException:
                # Some workers still compute items whose values are no longer needed, or have ended while they loaded.
                for i, worker in enumerate(self._workers):
                    if worker.phase != "idle":
                        self._replace(i)
                raise

    def _distribute(
        self, items: Sequence[Item], copies: np.ndarray, columns: int, lost_value: float
    ) -> tuple[np.ndarray, collections.Counter[str]]:
        """Gives items to idle workers until all have values or are lost: the result of _compute.

        copies: [N] int, how often each item counts if it is lost.
        """
        values = np.full((len(items), columns), lost_value, np.float32)
        waiting, missing = collections.deque([range(len(items))]), len(items)
        lost = collections.Counter[str]()
        while missing:
            for i, worker in enumerate(self._workers):
                if waiting and worker.phase == "idle":
                    self._give(i, waiting, items, columns)
            left = min(worker.until for worker in self._workers if worker.phase != "idle") - time.monotonic()
            arrived = {key.data for key, _ in self._messages.select(max(0.0, left))}
            now = time.monotonic()
            for i, worker in enumerate(self._workers):
                phase, numbers = worker.phase, worker.numbers
                # Messages are read before the clock, so that a delay of this process does not count as a timeout.
                if worker in arrived:
                    outcome = worker.receive()
                elif phase != "idle" and now > worker.until:
                    outcome = worker.late()
                else:
                    continue
                if outcome is None:
                    continue
                if phase == "loading":
                    files = ", ".join(map(str, self._specs))
                    raise RewardError(f"a reward worker ended or hung while it loaded {files}: check what these import")
                ended = len(outcome.values)
                values[numbers.start : numbers.start + ended] = outcome.values
                if outcome.lost:
                    rest = numbers[ended:]
                    lost[outcome.lost] += int(copies[rest[0]]) if rest else 0
                    if rest[1:]:
                        waiting.appendleft(rest[1:])
                    ended += bool(rest)
                    self._replace(i)
                missing -= ended
        return values, lost

    def _give(self, i: int, waiting: collections.deque[range], items: Sequence[Item], columns: int) -> None:
        """Gives the next items to an idle worker: fewer when few are left, so that all workers end together."""
        left = sum(map(len, waiting))
        numbers = waiting[0][: max(1, min(ITEMS, left // (2 * len(self._workers))))]
        given = items[numbers.start : numbers.stop]
        if self._workers[i].give(numbers, given, [self._seconds(problem) for problem, _ in given], columns):
            rest = waiting.popleft()[len(numbers) :]
            if rest:
                waiting.appendleft(rest)
        else:
            self._replace(i)

    def _replace(self, i: int) -> None:
        """Kills a worker and starts a new one in its place."""
        self._messages.unregister(self._workers[i].connection)
        self._workers[i].kill()
        self._workers[i] = self._new_worker()

    def _new_worker(self) -> WorkerProcess:
        worker = WorkerProcess(self._specs, self._code)
        self._messages.register(worker.connection, selectors.EVENT_READ, worker)
        return worker

    def _seconds(self, problem: Problem) -> float:
        """The deadline for the rewards of a problem's completion."""
        return self._deadline + (self._code.seconds if problem.checker == "code" else 0.0)
