"""The parent's side of a reward worker: its process, its current items, and how far it is with them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from typing import Literal

import numpy as np

from r1jax.rewards.base import RewardError
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.config import RewardSpec
from r1jax.rewards.progress import TIMES, Progress, new_file
from r1jax.rewards.worker import Failure, Item, Message

_STOPPING = 1.0  # seconds for an idle worker to end
LOADING = 120.0  # seconds for a worker to start, or to import the libraries of a checker

# A new interpreter with the module path of this one. multiprocessing would run the main script again in each worker,
# which imports JAX.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[5:]; from r1jax.rewards.worker import main; main()"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a worker has done: the values of its first items, and how it was lost, unless it is idle again.

    The item after those with values is the one that passed its deadline or ended the process.
    """

    values: np.ndarray  # [K, R] float64
    lost: Literal["timeout", "crash"] | None = None


class WorkerProcess:
    """A worker process. Its phases are loading, then idle, running for each list of items, and stopping.

    numbers: the caller's numbers of the current items; empty while loading or idle.
    until: time.monotonic() before which no deadline passes, unless the worker is idle.
    """

    def __init__(self, specs: Sequence[RewardSpec], code: CodeConfig) -> None:
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()  # a pipe without data, which closes when this process ends
        path = [os.path.abspath(folder) for folder in sys.path]
        self._width = self._columns = max(1, len(specs))
        with new_file(self._width) as file:
            self._progress = Progress(file.fileno(), self._width)
            inherited = theirs.fileno(), lifeline, file.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, *map(str, inherited), str(self._width), *path],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                start_new_session=True,  # no Ctrl-C, and one process group with everything a reward starts
            )
        theirs.close()
        os.close(lifeline)
        self.numbers = range(0)
        self.phase: Literal["loading", "idle", "running", "stopping"] = "loading"
        self.until = time.monotonic() + LOADING
        with contextlib.suppress(OSError):  # if the process has already ended, receive reports it
            self.connection.send((tuple(specs), code))

    def give(self, numbers: range, items: Sequence[Item], deadlines: Sequence[float], columns: int) -> bool:
        """Sends items to an idle worker; False if the process has ended.

        numbers: of the items, at most progress.ITEMS. deadlines: seconds for each item, counted from its start.
        columns: the number of values of an item.
        """
        self._progress.clear(len(items))
        try:
            self.connection.send(items)
        except OSError:
            return False
        self.numbers, self.phase = numbers, "running"
        self._deadlines, self._columns, self._given = deadlines, columns, time.monotonic()
        self.until = self._given + min(LOADING, *deadlines)
        return True

    def receive(self) -> Outcome | None:
        """Reads a message that has arrived, or the end of the process; None after the message that it has loaded.

        Raises:
          RewardError: if the worker reports a failure.
        """
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            return self._outcome(self._ended(), "crash")
        if isinstance(message, Failure):
            error = RewardError(message.reason)
            if message.traceback:
                error.add_note(f"In the worker:\n{message.traceback}")
            raise error
        outcome = self._outcome(self._ended()) if message == "done" else None
        self.phase, self.numbers = "idle", range(0)
        return outcome

    def late(self) -> Outcome | None:
        """Looks whether a deadline has passed, when ``until`` is reached; if not, ``until`` becomes later.

        Until an item starts, the worker has LOADING seconds to load itself or what the checker needs.
        """
        now, limit, ended = time.monotonic(), self.until, self._ended()
        if self.phase == "running":
            count = len(self.numbers)
            began = 0.0 if ended == count else self._progress.started_at(ended)
            before = self._progress.ended_at(ended - 1) if ended else self._given
            limit = began + self._deadlines[ended] if began else before + LOADING
            self.until = min(limit, now + min(self._deadlines))  # of an item that starts from now on
        # The item after ``ended`` items passed its deadline, also if it has ended meanwhile.
        return self._outcome(ended, "timeout") if now > limit else None

    def _ended(self) -> int:
        return self._progress.ended(len(self.numbers))

    def _outcome(self, ended: int, lost: Literal["timeout", "crash"] | None = None) -> Outcome:
        rows = np.frombuffer(self._progress.rows(ended)).reshape(ended, TIMES + self._width)
        return Outcome(rows[:, TIMES : TIMES + self._columns], lost)

    def stop(self) -> None:
        """Lets an idle process end itself, and remove what its rewards keep outside it; returns at once."""
        if self.phase == "idle":
            self.phase = "stopping"
            self.connection.close()

    def kill(self) -> None:
        """Kills the process and everything it started; one that stops has a second to end."""
        if self.phase == "stopping":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOPPING)
        # macOS refuses to signal a group whose processes have all ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        os.close(self._lifeline)
