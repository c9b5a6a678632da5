"""Sandboxes: a process in one of the levels of isolation that answers the judge's requests until it is killed."""

from __future__ import annotations

import collections
import compileall
import contextlib
import functools
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

from r1jax.rewards.code import folders, users
from r1jax.rewards.code.config import MEGABYTE, CodeConfig, Level
from r1jax.rewards.code.guest import system_calls
from r1jax.rewards.code.isolation import GUEST, command

START = 60.0  # seconds for a sandbox to start on a busy machine
OUTPUT = 16 * MEGABYTE  # bytes of standard output and of a file
_REPLY = 2 * OUTPUT + 2**10  # bytes of a reply: standard output is written in base 16
_VALUES = 2**20  # commas in a reply, which bound the time and the memory that it takes to read it
_PROCESSES = 32  # processes and threads


class SandboxError(Exception):
    """A sandbox that ended, or that did not keep to the protocol."""


class DeadlineError(SandboxError):
    """A sandbox that did not answer in time."""


class Sandbox:
    """One sandbox for one candidate. The processes in it end with it, and it ends with the thread that started it.

    seconds: of CPU time, beyond which the system ends the candidate; the judge's own deadlines are of ask.
    keep_errors: errors before the first answer are part of the SandboxError.
    """

    def __init__(self, level: Level, config: CodeConfig, seconds: float, keep_errors: bool = False) -> None:
        _compile_guest()
        self.level = level
        self._user = users.new_user()
        if level == "rlimits" and self._user is None:
            hide_process()
        self._folder = None
        if level == "rlimits":
            folders.remove_stale()
            self._folder = folders.make(self._user)
        options = {
            "user": self._user,
            "folder": self._folder or "/tmp",
            "seconds": seconds or config.seconds,
            "memory": config.memory * MEGABYTE,
            "processes": _PROCESSES + (users.most_threads() if self._user is None else 0),
            "output": OUTPUT,
        }
        self._process = subprocess.Popen(
            command(level, options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if keep_errors else subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)
        self._ready = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Waits until the sandbox is confined and ready.

        Raises:
          SandboxError: if it ended before.
        """
        if self._ready:
            return
        try:
            if self.receive(time.monotonic() + START) != ["ready"]:
                raise SandboxError("it did not start")
        except SandboxError as error:
            if self._process.stderr is None:
                raise
            self.kill()
            lines = self._process.stderr.read().decode(errors="replace").split("\n")
            raise SandboxError(next((line for line in reversed(lines) if line), str(error))) from error
        self._ready = True

    def ask(self, request: tuple[Any, ...], seconds: float) -> Any:
        """The reply to one request, a tree of JSON that is not to be trusted.

        Raises:
          DeadlineError: if there is no reply after ``seconds``, which do not include the start.
          SandboxError: if the sandbox ended.
        """
        self.start()
        until = time.monotonic() + seconds
        self.send(request, until)
        return self.receive(until)

    def send(self, request: tuple[Any, ...], until: float) -> None:
        """Sends a request; time.monotonic() must not pass ``until``."""
        data = marshal.dumps(request)
        rest = memoryview(len(data).to_bytes(4, "big") + data)
        while rest:
            _, writable, _ = select.select([], [self._in], [], max(0.0, until - time.monotonic()))
            if not writable:
                raise DeadlineError("it does not read its input")
            try:
                rest = rest[os.write(self._in, rest[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise SandboxError("it ended") from error

    def receive(self, until: float) -> Any:
        """The next reply; time.monotonic() must not pass ``until``."""
        size = int.from_bytes(self._read(4, until), "big")
        if size > _REPLY:
            raise SandboxError("its reply is too large")
        data = self._read(size, until)
        if data.count(b",") > _VALUES:
            raise SandboxError("its reply has too many values")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SandboxError("its reply is not JSON") from error

    def kill(self) -> None:
        """Kills all processes of the sandbox."""
        # With namespaces, the group holds the parent of process 1, whose end ends all.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self.level == "rlimits" and self._user is not None:
            users.kill_user(self._user)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._folder:
            folders.remove(self._folder)

    def _read(self, size: int, until: float) -> bytes:
        parts = []
        while size:
            readable, _, _ = select.select([self._out], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                raise DeadlineError("it did not answer in time")
            try:
                part = os.read(self._out, min(size, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise SandboxError("it ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Sandboxes:
    """Sandboxes that are started ahead, each for one candidate, so that their start costs no time of the judge.

    ahead: how many are kept started.
    """

    def __init__(self, level: Level, config: CodeConfig, ahead: int = 3) -> None:
        self.level: Level = level
        self._config, self._ahead = config, ahead
        self._started: collections.deque[Sandbox] = collections.deque()

    def take(self) -> Sandbox:
        """A sandbox that is ready.

        Raises:
          SandboxError: if it cannot start.
        """
        self.fill()
        for last in (False, False, True):  # one that waited may have been killed, for example for memory
            sandbox = self._started.popleft() if self._started else self._new()
            self.fill()
            try:
                sandbox.start()
                return sandbox
            except SandboxError:
                sandbox.kill()
                if last:
                    raise
        raise AssertionError

    def fill(self) -> None:
        """Starts sandboxes until enough are ahead; returns at once."""
        while len(self._started) < self._ahead:
            self._started.append(self._new())

    def close(self) -> None:
        """Kills the sandboxes that are ahead."""
        while self._started:
            self._started.popleft().kill()

    def _new(self) -> Sandbox:
        return Sandbox(self.level, self._config, self._config.seconds)


@functools.cache
def _compile_guest() -> None:
    """Leaves the guest's modules compiled, since a sandbox cannot write the compiled files itself."""
    with contextlib.suppress(OSError):
        compileall.compile_dir(str(GUEST), quiet=2)


@functools.cache
def hide_process() -> None:
    """Keeps the memory and the environment of this process from others of its user, which may be candidates."""
    if sys.platform == "linux":
        system_calls.prctl(system_calls.PR_SET_DUMPABLE, 0)
