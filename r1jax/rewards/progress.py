"""Memory that a reward worker and its parent share, so that items need no messages of their own.

The worker writes when an item starts and, at its end, its values. The parent reads them when a deadline may have
passed, and when the worker has ended.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import time
from typing import IO

ITEMS = 64  # most items of one message
TIMES = 2  # columns before the values
_STARTED, _ENDED = 0, 1  # these columns: seconds of time.monotonic(), which all processes share; 0: not yet


def new_file(columns: int) -> IO[bytes]:
    """A file without a name for a Progress with this number of values of an item."""
    # The caller closes it when the worker has inherited it. Linux has files in memory: to record an item in a file on a
    # disk that is busy with a checkpoint could take longer than a deadline.
    if sys.platform == "linux":
        file = os.fdopen(os.memfd_create("rewards"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(bytes(8 * ITEMS * (TIMES + columns)))
    file.flush()
    return file


class Progress:
    """Times and values of up to ITEMS items, in the order in which they are computed.

    fd: of new_file with the same ``columns``, the number of values of an item.
    """

    def __init__(self, fd: int, columns: int) -> None:
        self._width = TIMES + columns
        self._cells = memoryview(mmap.mmap(fd, 8 * ITEMS * self._width)).cast("d")

    def clear(self, count: int) -> None:
        """Forgets the first ``count`` items."""
        for item in range(count):
            self._cells[item * self._width + _STARTED] = self._cells[item * self._width + _ENDED] = 0.0

    def start(self, item: int) -> None:
        """Records that an item starts now."""
        self._cells[item * self._width + _STARTED] = time.monotonic()

    def end(self, item: int, values: list[float]) -> None:
        """Records the values of an item, which ends now."""
        at = item * self._width
        for column, value in enumerate(values, start=at + TIMES):
            self._cells[column] = value
        self._cells[at + _ENDED] = time.monotonic()

    def ended(self, count: int) -> int:
        """Number of items among the first ``count`` that have ended; those after them have not."""
        return next((item for item in range(count) if not self.ended_at(item)), count)

    def started_at(self, item: int) -> float:
        """time.monotonic() at which an item has started; 0: it has not."""
        return self._cells[item * self._width + _STARTED]

    def ended_at(self, item: int) -> float:
        """time.monotonic() at which an item has ended; 0: it has not."""
        return self._cells[item * self._width + _ENDED]

    def rows(self, count: int) -> bytes:
        """The first ``count`` items: [count, TIMES + columns] float64, two times before the values."""
        return bytes(self._cells[: count * self._width])
