"""Ending on request: at Ctrl-C and SIGTERM training saves its step first, and everything else ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
_REPEAT_SECONDS = 0.2  # `timeout` and others signal the process and then its group: two signals, one request
_POLL_SECONDS = 0.2
_FLUSH_SECONDS = 1.0  # for output that nobody may be reading
_STACK_BYTES = 64 * 2**20  # the compiler recurses, and some systems give a thread less than the main one


class Stopped(KeyboardInterrupt):  # no Exception: handlers of those must not take it for a failure
    """The process was asked to stop by the signal ``number``, and what there was has been saved."""

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that a shell reports for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class StopRequest:
    """While entered, a first Ctrl-C or SIGTERM sets ``number`` for the caller to save and raise Stopped.

    Leaving it without an exception raises Stopped where the signal came too late for the caller to notice. Inside
    ``stoppable`` a second signal ends the process; elsewhere, as in a notebook, it has its former effect.
    """

    _entered: StopRequest | None = None
    _lock = threading.RLock()  # reentrant: one signal's handler may interrupt the other's

    def __init__(self) -> None:
        self.number = 0
        self._announced = False
        self._outer: StopRequest | None = None
        self._former: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number != 0

    def __enter__(self) -> StopRequest:
        with self._lock:
            self._outer, StopRequest._entered = StopRequest._entered, self
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._former = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            StopRequest._entered = self._outer
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if kind is None and self.requested:
            raise Stopped("stopped", self.number)

    def _handle(self, number: int, frame: Any) -> None:
        if self._take(number):
            return
        former = self._former[signal.Signals(number)]
        if callable(former):
            former(number, frame)
        elif former is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @classmethod
    def offer(cls, number: int) -> bool:
        """Hands a signal to the entered request; False without one, or if it has already announced a signal."""
        with cls._lock:
            return cls._entered is not None and cls._entered._take(number)

    def _take(self, number: int) -> bool:
        if self.requested:
            return not self._announced
        self.number = number
        time.sleep(_REPEAT_SECONDS)  # signals that come meanwhile are handled meanwhile
        self._announced = True
        name = _SIGNALS[signal.Signals(number)]
        with contextlib.suppress(RuntimeError):  # where the signal interrupts another write to the same stream
            print(
                f"{name}: stops once the work under way is saved; a second one ends at once",
                file=sys.stderr,
                flush=True,
            )
        return True


def stoppable(main: Callable[[], object], farewell: str) -> None:
    """Calls ``main`` in a thread of its own, while this one waits for Ctrl-C and SIGTERM.

    Within a StopRequest the first signal is left to it. Otherwise the process prints ``farewell`` and ends at once
    with 128 + the signal's number: files are written so that they are whole at any time. Python runs handlers in its
    main thread alone, which a call into XLA may hold up for minutes; and an exception raised from one would leave such
    a call and end the interpreter while XLA's threads compile, which is a segmentation fault.

    Raises:
      BaseException: what ``main`` raises.
    """
    if threading.current_thread() is not threading.main_thread():
        main()
        return
    ended: list[BaseException] = []

    def body() -> None:
        try:
            main()
        except BaseException as error:
            ended.append(error)

    def handle(number: int, _: Any) -> None:
        if not StopRequest.offer(number):
            _end_at_once(number, farewell)

    former = {number: signal.signal(number, handle) for number in _SIGNALS}
    size = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=body, name="main", daemon=True)
        thread.start()
        threading.stack_size(size)
        while thread.is_alive():
            # The system may give the signal to another thread, which does not wake this one.
            thread.join(_POLL_SECONDS)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if ended:
        raise ended[0]


def _end_at_once(number: int, farewell: str) -> NoReturn:
    """Ends this process and its children without the interpreter's own end, which waits and unloads."""
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)  # a repeated one would begin again from the farewell

    def write() -> None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            print(farewell, flush=True)
            if sys.stderr.isatty():
                sys.stderr.write(_SHOW_CURSOR)
            sys.stderr.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(_FLUSH_SECONDS)
    with contextlib.suppress(Exception):
        import psutil  # a program that is not stopped does without

        for child in psutil.Process().children(recursive=True):
            child.kill()
    os._exit(128 + number)
