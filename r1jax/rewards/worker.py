"""The process that computes rewards: it may hang or die, and RewardPool answers for it.

It reads specs once, then items, and sends: "ready" after loading, "started" when an item's deadline begins, and for
each item its values or a Failure. An item is a problem with a completion, which has the rewards as its values, or with
the text of an answer, which has the score of the problem's checker as its only one.
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
from r1jax.rewards.config import RewardSpec, load_rewards

_LARGEST = 3.4e38  # of float32


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why there are no values, and where it happened."""

    reason: str
    traceback: str = ""


Message = Literal["ready", "started"] | list[float] | Failure


def main() -> None:
    """Serves the pool whose connection and lifeline are the file descriptors sys.argv[1:3], until either closes."""
    connection_fd, lifeline = map(int, sys.argv[1:3])
    for fd in (connection_fd, lifeline):
        os.set_inheritable(fd, False)
    for number in (signal.SIGINT, signal.SIGTERM):  # to a whole job: the parent still scores its last step
        signal.signal(number, lambda *_: None)  # and not SIG_IGN, which what a reward starts would inherit
    _end_with_parent(lifeline)
    connection = Connection(connection_fd)
    try:
        specs = connection.recv()
        try:
            rewards = load_rewards(specs)
        except UserError as error:
            connection.send(Failure(str(error), traceback.format_exc()))
            return
        connection.send("ready")
        while True:
            problem, given = connection.recv()
            try:
                prepare(problem)
            except Exception as error:
                reason = f"the checker {problem.checker} cannot be loaded: {type(error).__name__}: {error}"
                connection.send(Failure(reason, traceback.format_exc()))
                continue
            connection.send("started")
            if isinstance(given, Completion):
                connection.send(_values(specs, rewards, problem, given))
            else:
                connection.send([_checked(problem, given)])
    except (EOFError, ConnectionError):
        pass  # the pool was closed


def _end_with_parent(lifeline: int) -> None:
    """Ends this process and those it started once the parent's end of the pipe closes, however the parent ends."""
    if sys.platform == "linux":
        # The kernel sends the signal: Python code would never run while a reward is stuck in a regular expression.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # closed before the kernel was told
            os.killpg(0, signal.SIGKILL)
        return

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _values(
    specs: Sequence[RewardSpec], rewards: Sequence[Reward], problem: Problem, completion: Completion
) -> list[float] | Failure:
    values = []
    for spec, reward in zip(specs, rewards, strict=True):
        try:
            value = _scalar(reward(problem, completion))
        except BaseException as error:  # sys.exit included: a reward that gives up is no worker that died
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f" at line {frame.lineno}" for frame in frames if frame.filename == spec.file), "")
            reason = f"raised {type(error).__name__}: {error}{line}"
            return Failure(_failure(spec, reason, problem), traceback.format_exc())
        if isinstance(value, str):
            return Failure(_failure(spec, f"returned {value}, not one finite number", problem))
        values.append(value)
    return values


def _checked(problem: Problem, answer: str) -> float:
    """The checker's score; 0 where it raises: the expected answer may be one that a model gave."""
    try:
        return check(problem, answer)
    except Exception:
        return 0.0


def _scalar(value: Any) -> float | str:
    """The value as a float, or where it is not one finite real number how to show it."""
    if getattr(value, "shape", None) == ():  # a scalar of numpy or of another array library
        value = value.item()
    with contextlib.suppress(OverflowError):  # of a whole number beyond every float
        if isinstance(value, numbers.Real) and abs(float(value)) <= _LARGEST:  # false for nan
            return float(value)
    return reprlib.repr(value)


def _failure(spec: RewardSpec, what: str, problem: Problem) -> str:
    return " ".join(f"reward {spec} {what} for the problem {reprlib.repr(problem.question)}".split())
