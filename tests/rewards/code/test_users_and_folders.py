"""Ids of users for sandboxes, and the removal of what a program left in its folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from r1jax.rewards.code.folders import remove
from r1jax.rewards.code.guest import inert
from r1jax.rewards.code.users import free_ids


@pytest.mark.parametrize(
    ("users", "groups", "first", "last"),
    [
        (((0, 2**32 - 1),), ((0, 2**32 - 1),), 100_000_000, 100_000_000 + 2**28 - 1),
        (((0, 65536),), ((0, 65536),), 32768, 65532),  # a container with a map of users
        (((0, 1), (1, 65536)), ((0, 1), (1, 65536)), 32769, 65533),  # one without root
        (((0, 65536),), ((0, 1),), None, None),
        (((0, 1),), ((0, 1),), None, None),
        (((0, 1000),), ((0, 1000),), None, None),
        ((), (), None, None),
    ],
)
def test_ids_for_sandboxes(
    users: tuple[tuple[int, int], ...], groups: tuple[tuple[int, int], ...], first: int | None, last: int | None
) -> None:
    mapped = [tuple(range(start, start + count) for start, count in one) for one in (users, groups)]
    found = free_ids(mapped[0], mapped[1])
    assert (found[0], found[-1]) == (first, last) if found else first is None


def test_any_folder_is_removed() -> None:
    """Nested deeper than Python recurses and longer than a path may be, closed, and with links that stay unread."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder, kept = tempfile.mkdtemp(dir=memory), Path(tempfile.mkdtemp(dir=memory))
    (kept / "file").touch(0o600)
    here = os.getcwd()
    try:
        os.chdir(folder)
        os.makedirs("closed/inner")
        os.symlink(kept, "closed/link")
        os.symlink(kept / "file", "closed/inner/link")
        for path in ("closed/inner", "closed"):
            os.chmod(path, 0)
        for _ in range(1100):
            os.mkdir("nested")
            os.chdir("nested")
    finally:
        os.chdir(here)
    remove(folder)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.endswith("(_remove_filled)"):
            thread.join()
    assert not os.path.exists(folder)
    assert os.listdir(kept) == ["file"] and (kept / "file").stat().st_mode & 0o777 == 0o600
    shutil.rmtree(kept)


def test_tables_of_one_hash_are_refused() -> None:
    keys = [["i", hex(i * (2**61 - 1))] for i in range(17)]
    for tree in (["s", *keys], ["z", *keys], ["d", *[[key, 1] for key in keys]], ["l", ["d", *[[k, 1] for k in keys]]]):
        with pytest.raises(inert.NotInert, match="of one hash"):
            inert.unpack(tree, int)
    assert len(inert.unpack(["s", *keys[:16], *range(1, 1000)], int)) == 1015
    honest = {(x, y): x for x in range(-50, 50) for y in range(-50, 50)}
    assert inert.unpack(inert.pack(honest, id), int) == honest
