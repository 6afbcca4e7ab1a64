"""The one exception that a user is meant to read."""

from __future__ import annotations


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


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that it passes through the same hands as Ctrl-C."""


class Interrupted(UserError):
    """The user stopped it; the message says how to go on.

    code: with which the process exits, 130 after Ctrl-C and 143 after SIGTERM.
    """

    def __init__(self, message: object, code: int = 130):
        super().__init__(message)
        self.code = code

    @classmethod
    def by(cls, stop: BaseException, message: object) -> Interrupted:
        """Return the error that ends what `stop` interrupted."""
        return cls(message, 143 if isinstance(stop, Terminated) else 130)
