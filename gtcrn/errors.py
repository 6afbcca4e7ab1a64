"""The one exception that a user is meant to read."""


def printable(text: object) -> str:
    """Return the text with what UTF-8 cannot say, as in names of files from elsewhere, written as `\\udce9`."""
    return str(text).encode(errors="backslashreplace").decode()


class UserError(ValueError):
    """Something the user can mend: a path, a key, a file.

    The message is one line that names the culprit and the fix; `run.py` prints
    it without a traceback and exits with code 2.
    """

    def __init__(self, message: object):
        super().__init__(printable(message))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in its place."""
        return [str(self)]


class Interrupted(UserError):
    """The user stopped it; the message says how to go on."""
