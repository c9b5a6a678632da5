"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """A wrong flag, path, file or combination; the message is one line: what is wrong, and what to do.

    Experiments print the message and exit with status 2. It is raised before any device work.
    """
