"""The one exception that means: the person who typed the command can mend this."""


class UserError(Exception):
    """A wrong flag, path, file or combination, in one line that says what to do.

    Experiments print the line and exit with status 2; libraries raise it before any device work.
    """
