"""Output to a pipe whose reader has left, as `python experiments/r1.py --help | head` does."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

CLOSED = 141  # the status of a shell for a program that SIGPIPE ends: 128 + 13


@contextlib.contextmanager
def ends_with_reader() -> Iterator[None]:
    """A context that exits with status CLOSED, and no traceback, if the reader of standard output has left.

    Statuses of errors and signals remain.

    Python ignores SIGPIPE, which would also end a process that writes to one of its workers. Other broken pipes than
    that of standard output are raised.
    """
    try:
        output = os.dup(sys.stdout.fileno())  # rich replaces a broken one
    except (OSError, ValueError):  # replaced by an object without a file, or closed
        yield
        return
    try:
        yield
    except (BrokenPipeError, SystemExit) as end:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        if not _reader_has_left(output):
            raise
        with open(os.devnull, "w") as nowhere:  # what is not written yet would fail at the exit of the interpreter
            for file in {sys.stdout.fileno(), sys.stderr.fileno()}:
                if file == sys.stdout.fileno() or _reader_has_left(file):
                    os.dup2(nowhere.fileno(), file)
        if isinstance(end, SystemExit) and end.code not in (None, 0, 1):  # 1 is that of rich for a broken pipe
            raise
        sys.exit(CLOSED)
    finally:
        os.close(output)


def _reader_has_left(file: int) -> bool:
    """True for the end of a pipe or socket that nothing reads any more."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(file, 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in poll.poll(0))
