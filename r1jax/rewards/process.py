"""The parent's side of a reward worker: its process, its current item, and its last message."""

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
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.config import RewardSpec
from r1jax.rewards.worker import Failure, Message

_STOPPING = 1.0  # seconds for an idle worker to end
LOADING = 120.0  # seconds for a worker to start, or to import the libraries of a checker

# A new interpreter with the module path of this one. multiprocessing would run the main script again in each worker,
# which imports JAX.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[3:]; from r1jax.rewards.worker import main; main()"


class WorkerProcess:
    """A worker process. Its phases are loading, then idle, preparing and running for each item, and stopping.

    item: index of the current item; None while loading or idle.
    until: time.monotonic() at which the current phase times out, unless the worker is idle.
    """

    def __init__(self, specs: Sequence[RewardSpec], code: CodeConfig) -> None:
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()  # a pipe without data, which closes when this process ends
        path = [os.path.abspath(folder) for folder in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), str(lifeline), *path],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lifeline),
            start_new_session=True,  # no Ctrl-C, and one process group with everything a reward starts
        )
        theirs.close()
        os.close(lifeline)
        self.item: int | None = None
        self.phase: Literal["loading", "idle", "preparing", "running", "stopping"] = "loading"
        self.until = time.monotonic() + LOADING
        with contextlib.suppress(OSError):  # if the process has already ended, advance reports it
            self.connection.send((tuple(specs), code))

    def give(self, index: int, item: tuple[Problem, Completion | str]) -> bool:
        """Sends an item to an idle worker; False if the process has ended."""
        try:
            self.connection.send(item)
        except OSError:
            return False
        self.item, self.phase, self.until = index, "preparing", time.monotonic() + LOADING
        return True

    def advance(self, deadline: float) -> list[float] | Literal["timeout", "crash"] | None:
        """Reads one message, if there is one, and returns the values of the item when it is done.

        Returns "timeout" or "crash" if the worker has to be replaced, and None if the item is not done.

        deadline: seconds for an item, counted from the worker's message "started".

        Raises:
          RewardError: if the worker reports a failure.
        """
        if self.phase == "idle":
            return None
        # Messages are read before the clock, so that a delay of this process does not count as a timeout.
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
