"""One reward worker as RewardPool sees it: a process, the item it is at, and what it said last."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from typing import Literal

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, RewardError
from r1jax.rewards.config import RewardSpec
from r1jax.rewards.worker import Failure, Message

LOADING = 120.0  # seconds that a worker may take to start, or to import what a checker needs

# A fresh interpreter with this one's module path, and not multiprocessing: that would run the main script once more in
# each worker, jax and all.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[3:]; from r1jax.rewards.worker import main; main()"


class WorkerProcess:
    """A process in one phase after another: loading, then for each item idle, preparing, running.

    item: index of the item it is at; None in the first two phases.
    until: time.monotonic() by which it has to be in its next phase, unless it is idle.
    """

    def __init__(self, specs: Sequence[RewardSpec]) -> None:
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()  # nothing is written to it: it closes when this process ends
        path = [os.path.abspath(folder) for folder in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), str(lifeline), *path],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lifeline),
            start_new_session=True,  # out of reach of Ctrl-C, and one group with whatever a reward starts
        )
        theirs.close()
        os.close(lifeline)
        self.item: int | None = None
        self.phase: Literal["loading", "idle", "preparing", "running"] = "loading"
        self.until = time.monotonic() + LOADING
        with contextlib.suppress(OSError):  # where it is gone already, advance will tell
            self.connection.send(tuple(specs))

    def give(self, index: int, item: tuple[Problem, Completion | str]) -> bool:
        """Hands an idle worker an item; False where the process is gone."""
        try:
            self.connection.send(item)
        except OSError:
            return False
        self.item, self.phase, self.until = index, "preparing", time.monotonic() + LOADING
        return True

    def advance(self, deadline: float) -> list[float] | Literal["timeout", "crash"] | None:
        """Takes in one message: returns the item's values, what ended the worker's use, or None while it goes on.

        deadline: seconds for an item, from when the worker says that it has started.

        Raises:
          RewardError: as the worker reports it.
        """
        if self.phase == "idle":
            return None
        # Messages come before the clock, so that a result is not late because this process was.
        if self.connection.poll():
            try:
                message: Message = self.connection.recv()
            except (EOFError, OSError):
                return "crash"
            match message:
                case "ready":
                    self.phase = "idle"
                case "started":
                    self.phase, self.until = "running", time.monotonic() + deadline
                case Failure():
                    error = RewardError(message.reason)
                    if message.traceback:
                        error.add_note(f"In the worker:\n{message.traceback}")
                    raise error
                case values:
                    self.phase, self.item = "idle", None
                    return values
            return None
        return "timeout" if time.monotonic() > self.until else None

    def kill(self) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of the dead
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()
        os.close(self._lifeline)
