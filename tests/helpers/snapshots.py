"""Copies of a folder between any two writes of a program, which are the states that a kill can leave."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def snapshots(out: Path, into: Path) -> Iterator[list[Path]]:
    """Copies ``out`` into ``into`` before each file operation that Python reports, each state once."""
    taken: list[Path] = []
    seen: set[str] = set()
    lock = threading.Lock()
    mine = threading.local()  # whether this thread is copying
    active = True
    events = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")

    def state() -> str:
        total = hashlib.sha256()
        for path in sorted(out.rglob("*")):
            total.update(str(path.relative_to(out)).encode())
            if path.is_file() and "tfevents" not in path.name:
                total.update(path.read_bytes())
        return total.hexdigest()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not active or getattr(mine, "copying", False) or not (writes or event in events) or not out.exists():
            return
        name = str(arguments[0])
        if os.path.isabs(name) and not name.startswith(str(out)):
            return
        with lock:
            mine.copying = True
            for _ in range(5):  # native code may rename a file meanwhile
                target = into / f"{len(taken):04d}"
                try:
                    if (found := state()) not in seen:
                        shutil.copytree(out, target)
                        seen.add(found)
                        taken.append(target)
                    break
                except (OSError, shutil.Error):
                    shutil.rmtree(target, ignore_errors=True)
            mine.copying = False

    sys.addaudithook(hook)
    try:
        yield taken
    finally:
        active = False
