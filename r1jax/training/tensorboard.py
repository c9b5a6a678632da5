"""TensorBoard event files, written with tensorboardX's record format alone.

That needs no TensorFlow, and a resumed training can write the file again from metrics.jsonl, whereas a SummaryWriter
only appends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

_FLUSH_SECONDS = 5.0  # between flushes, each of which waits for the disk


class EventFile:
    """The only event file of a folder, which replaces those of earlier processes.

    Args:
      folder: the folder of the file, which is made.
      rows: rows of metrics.jsonl that are written first.

    Raises OSError if the folder cannot be written.
    """

    def __init__(self, folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for row in rows:
            self._file.write(_event(row))
        self._file.flush()
        self._flushed = time.monotonic()

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row of metrics.jsonl."""
        self._file.write(_event(row))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is in memory and closes the file."""
        self._file.close()


def _event(row: Mapping[str, Any]) -> bytes:
    """A row of metrics.jsonl as one TensorBoard event."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if name not in ("step", "time") and value is not None
    ]
    return Event(wall_time=row["time"], step=row["step"], summary=Summary(value=values)).SerializeToString()
