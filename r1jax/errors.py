"""The exception for mistakes that the user can correct, and errors of a disk or path."""

from __future__ import annotations

import errno

_PERMISSIONS = "change its permissions, or give another path"
# Errors of a disk or path, and not of the program, with what to do; "" if the error says it.
STORAGE = {
    errno.ENOSPC: "",
    errno.EDQUOT: "",
    errno.EROFS: "",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.ENAMETOOLONG: "give a shorter path",
}


class UserError(Exception):
    """A wrong flag, path, file or combination; the message is one line: what is wrong, and what to do.

    Experiments print the message and exit with status 2. It is raised before any device work.
    """


def describe(error: UserError | OSError) -> str:
    """The message of an error; for one of STORAGE, also what to do. Paths are shortened to 200 characters."""
    advice = STORAGE.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    if not advice or not isinstance(error, OSError):
        return str(error)
    path = str(error.filename or "")
    shown = path if len(path) <= 200 else f"{path[:200]}..."
    return ": ".join(part for part in (error.strerror, shown, advice) if part)
