"""Seconds that jax spends on tracing, lowering, compiling and loading of each program, from its monitoring events."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator
from typing import Any

from jax import monitoring

# Event -> kind. Loading from the compilation cache is a part of compiling, whose event then has no name.
_KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
_LOADED = "/jax/compilation_cache/cache_retrieval_time_sec"
KINDS = (*_KINDS.values(), "load")


@dataclasses.dataclass
class _Open:
    """An event that has begun in a thread."""

    event: str
    name: str
    inner: float = 0.0  # seconds of events that began and ended within it


class ProgramTimes:
    """Seconds by program and kind, without those of events within an event, for example of a program that tracing runs.

    A kind is "trace", "lower", "compile" (with the key of the cache, and writing to it) or "load" (from the cache).
    """

    def __init__(self) -> None:
        # (program, kind, True in the thread that made this object) -> seconds
        self._seconds: collections.Counter[tuple[str, str, bool]] = collections.Counter()
        self._compiled: collections.Counter[str] = collections.Counter()
        self._lock, self._thread, self._local = threading.Lock(), threading.get_ident(), threading.local()

    def began(self, event: str, value: float, **details: Any) -> None:
        """Listener of scalars: jax records the time at the begin of an event."""
        if event in _KINDS:
            self._stack().append(_Open(event, program_name(str(details.get("fun_name", "unknown")))))

    def ended(self, event: str, seconds: float, **details: Any) -> None:
        """Listener of durations."""
        stack = self._stack()
        if event == _LOADED and stack:
            stack[-1].inner += seconds
            self._add(stack[-1].name, "load", seconds)
        elif event in _KINDS and stack and stack[-1].event == event:
            one = stack.pop()
            self._add(one.name, _KINDS[event], seconds - one.inner)
            if stack:
                stack[-1].inner += seconds

    def figures(self) -> dict[str, Any]:
        """Sums of all programs by kind, those in the main thread, and each program, the one that takes longest first.

        "programs" has name, number of programs of this name, and seconds by kind.
        """
        with self._lock:
            seconds, compiled = dict(self._seconds), dict(self._compiled)
        rows = [
            {"name": name, "number": compiled.get(name, 0)}
            | {kind: seconds.get((name, kind, True), 0.0) + seconds.get((name, kind, False), 0.0) for kind in KINDS}
            for name in sorted({name for name, _, _ in seconds})
        ]
        rows.sort(key=lambda row: -sum(row[kind] for kind in KINDS))
        sums = {kind: sum(row[kind] for row in rows) for kind in KINDS}
        own = sum(value for (_, _, main), value in seconds.items() if main)
        return {**sums, "in_main_thread": own, "number": sum(compiled.values()), "programs": rows}

    def _stack(self) -> list[_Open]:
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack

    def _add(self, name: str, kind: str, seconds: float) -> None:
        with self._lock:
            self._seconds[name, kind, threading.get_ident() == self._thread] += seconds
            self._compiled[name] += kind == "compile"


def program_name(name: str) -> str:
    """The name of the function of a program: "update" of "jit(update)" and of "jit_update"."""
    found = re.fullmatch(r"jit\((.*)\)|jit_(.*)", name)
    return name if found is None else found[1] or found[2]


@contextlib.contextmanager
def program_times() -> Iterator[ProgramTimes]:
    """Records the programs of the context, of all threads."""
    times = ProgramTimes()
    monitoring.register_scalar_listener(times.began)
    monitoring.register_event_duration_secs_listener(times.ended)
    try:
        yield times
    finally:
        monitoring.unregister_scalar_listener(times.began)
        monitoring.unregister_event_duration_listener(times.ended)
