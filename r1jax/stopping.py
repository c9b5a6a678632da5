"""Handling of Ctrl-C and SIGTERM: training saves its step first; all other work ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_SHOW_CURSOR = "\x1b[?25h"  # progress bars hide the cursor
_REPEAT_SECONDS = 0.2  # `timeout` signals both the process and its group: two signals for one request
_POLL_SECONDS = 0.2
_FLUSH_SECONDS = 1.0  # limit for output to a blocked pipe
_STACK_BYTES = 64 * 2**20  # the compiler recurses deeply, and threads may have smaller stacks than the main thread


class Stopped(KeyboardInterrupt):  # not an Exception, which handlers would treat as a failure
    """Raised after the signal ``number`` has requested a stop and the state has been saved."""

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status of a shell for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class StopRequest:
    """A context in which the first Ctrl-C or SIGTERM sets ``number``; the caller then saves and raises Stopped.

    If the caller has not raised Stopped, the exit of the context does. Inside ``stoppable`` a second signal ends the
    process; elsewhere, as in a notebook, it has its previous effect.
    """

    _entered: StopRequest | None = None
    _lock = threading.RLock()  # reentrant: the handler of one signal may interrupt that of the other

    def __init__(self) -> None:
        self.number = 0
        self._announced = False
        self._outer: StopRequest | None = None
        self._former: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True after a signal."""
        return self.number != 0

    def __enter__(self) -> StopRequest:
        with self._lock:
            self._outer, StopRequest._entered = StopRequest._entered, self
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
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
        """Passes a signal to the active request; False if there is none or it has already announced a signal."""
        with cls._lock:
            return cls._entered is not None and cls._entered._take(number)

    def _take(self, number: int) -> bool:
        if self.requested:
            return not self._announced
        self.number = number
        time.sleep(_REPEAT_SECONDS)  # repeated signals are handled during the sleep
        self._announced = True
        name = _SIGNALS[signal.Signals(number)]
        with contextlib.suppress(RuntimeError):  # the signal may interrupt another write to the stream
            print(
                f"{name}: the run stops after it has saved its state; a second signal ends it at once",
                file=sys.stderr,
                flush=True,
            )
        return True


class Interrupts:
    """A context of an interactive command in which Ctrl-C sets ``requested`` and has no other effect.

    Inside ``at_prompt`` Ctrl-C raises KeyboardInterrupt, which ends ``input``. Outside the main thread, which alone may
    set handlers, Ctrl-C keeps its previous effect.
    """

    def __init__(self) -> None:
        self.requested = False
        self._prompting = False
        self._former: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        if self._prompting:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_prompt(self) -> Iterator[None]:
        """A context that waits for the user; ``requested`` is False when it ends without an exception."""
        self._prompting = True
        try:
            yield
        finally:
            self._prompting = False
        self.requested = False


def call_in_main_thread(main: Callable[[], object], farewell: str) -> None:
    """Calls ``main``, which reads the terminal, in this thread; until it enters Interrupts, Ctrl-C ends the process.

    Raises:
      BaseException: any exception of ``main``.
    """
    if threading.current_thread() is not threading.main_thread():
        main()
        return
    former = signal.signal(signal.SIGINT, lambda number, _: _end_at_once(number, farewell))
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, former)


def stoppable(main: Callable[[], object], farewell: str) -> None:
    """Calls ``main`` in a new thread while the main thread waits for Ctrl-C and SIGTERM.

    If a StopRequest is active, it handles the first signal. Otherwise the process prints ``farewell`` and ends at once
    with status 128 + signal number; this is safe, since files are complete at any time. Python runs signal handlers
    only in the main thread, which a call into XLA may block for minutes. An exception raised by a handler would end the
    interpreter while threads of XLA compile, which is a segmentation fault.

    Raises:
      BaseException: any exception of ``main``.
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
            # The signal may be delivered to another thread, which does not wake this one.
            thread.join(_POLL_SECONDS)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if ended:
        raise ended[0]


def _end_at_once(number: int, farewell: str) -> NoReturn:
    """Ends this process and its children without the shutdown of the interpreter, which may wait."""
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)  # a repeated signal must not print the farewell again

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
        import psutil  # imported only here, since it is rarely needed

        for child in psutil.Process().children(recursive=True):
            child.kill()
    os._exit(128 + number)
