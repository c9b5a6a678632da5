"""The worker process that computes rewards; RewardPool detects if it hangs or dies.

The worker receives the specs and the settings of the code reward once, and then lists of items. It sends "ready" after
loading, and for each list "done" or a Failure. The time at which the deadline of an item begins, and the values of the
item, are written to shared memory (r1jax.rewards.progress). The values of a problem with a completion are the rewards;
the only value of a problem with the text of an answer is the score of the problem's checker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import numbers
import os
import reprlib
import select
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.rewards.base import Completion, Reward
from r1jax.rewards.checkers import check, prepare
from r1jax.rewards.code.service import SERVICE
from r1jax.rewards.config import RewardSpec, load_rewards
from r1jax.rewards.progress import Progress

_LARGEST = 3.4e38  # about the largest float32


@dataclasses.dataclass(frozen=True)
class Failure:
    """The reason why a worker has no values for an item of a list."""

    reason: str
    traceback: str = ""


Item = tuple[Problem, Completion | str]
Message = Literal["ready", "done"] | Failure


def main() -> None:
    """Computes rewards until the connection or the lifeline closes.

    sys.argv[1:5] has the file descriptors of both and of the Progress, and the number of columns of the latter.
    """
    connection_fd, lifeline, progress_fd, columns = map(int, sys.argv[1:5])
    progress = Progress(progress_fd, columns)
    os.close(progress_fd)
    for fd in (connection_fd, lifeline):
        os.set_inheritable(fd, False)
    # Signals to the whole job are ignored, because the parent still needs the scores of its last step. SIG_IGN would be
    # inherited by processes that a reward starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _end_with_parent(lifeline)
    connection = Connection(connection_fd)
    try:
        specs, code = connection.recv()
        SERVICE.configure(code)
        try:
            rewards = load_rewards(specs)
        except UserError as error:
            connection.send(Failure(str(error), traceback.format_exc()))
            return
        connection.send("ready")
        while True:
            connection.send(_work(connection.recv(), specs, rewards, progress))
    except (EOFError, ConnectionError):
        pass  # the pool was closed


def _work(
    items: Sequence[Item], specs: Sequence[RewardSpec], rewards: Sequence[Reward], progress: Progress
) -> Literal["done"] | Failure:
    """Computes the values of all items, or the Failure of the first one that has none."""
    for number, (problem, given) in enumerate(items):
        try:
            prepare(problem)
        except Exception as error:
            reason = f"the checker {problem.checker} cannot be loaded: {type(error).__name__}: {error}"
            return Failure(reason, traceback.format_exc())
        progress.start(number)
        values = (
            _values(specs, rewards, problem, given) if isinstance(given, Completion) else [_checked(problem, given)]
        )
        if isinstance(values, Failure):
            return values
        progress.end(number, values)
    return "done"


def _end_with_parent(lifeline: int) -> None:
    """Kills this process and those it started when the parent's end of the pipe closes, however the parent ends."""
    if sys.platform == "linux":
        # The kernel sends the signal, because no Python code runs while a reward hangs in a regular expression.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # it closed before F_SETFL
            os.killpg(0, signal.SIGKILL)
        return

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _values(
    specs: Sequence[RewardSpec], rewards: Sequence[Reward], problem: Problem, completion: Completion
) -> list[float] | Failure:
    """All rewards of a completion, or the Failure of one of them."""
    values = []
    for spec, reward in zip(specs, rewards, strict=True):
        try:
            value = _scalar(reward(problem, completion))
        except BaseException as error:  # including sys.exit, which is an error of the reward, not a crash of the worker
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f" at line {frame.lineno}" for frame in frames if frame.filename == spec.file), "")
            reason = f"raised {type(error).__name__}: {error}{line}"
            return Failure(_failure(spec, reason, problem), traceback.format_exc())
        if isinstance(value, str):
            return Failure(_failure(spec, f"returned {value}, not one finite number", problem))
        values.append(value)
    return values


def _checked(problem: Problem, answer: str) -> float:
    """The checker's score; 0 if it raises, since the expected answer may come from a model."""
    try:
        return check(problem, answer)
    except Exception:
        return 0.0


def _scalar(value: Any) -> float | str:
    """The value as a float; its repr if it is not one finite real number."""
    if getattr(value, "shape", None) == ():  # a scalar of NumPy or another array library
        value = value.item()
    with contextlib.suppress(OverflowError):  # raised for integers too large for a float
        if isinstance(value, numbers.Real) and abs(float(value)) <= _LARGEST:  # False for NaN
            return float(value)
    return reprlib.repr(value)


def _failure(spec: RewardSpec, what: str, problem: Problem) -> str:
    return " ".join(f"reward {spec} {what} for the problem {reprlib.repr(problem.question)}".split())
