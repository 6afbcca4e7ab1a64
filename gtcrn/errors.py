"""The one exception that a user is meant to read."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # ends a line, or tells a terminal to do something


def printable(text: object) -> str:
    """Return the text with what UTF-8 cannot say, as in names of files from elsewhere, written as `\\udce9`."""
    return str(text).encode(errors="backslashreplace").decode()


class UserError(ValueError):
    """Something the user can mend: a path, a key, a file.

    The message is one line that names the culprit and the fix; `run.py` prints
    it without a traceback and exits with code 2.
    """

    def __init__(self, message: object):
        # one from a loader's worker process comes with that process's traceback before it
        line = printable(message).rpartition(f"\n{__name__}.UserError: ")[2].strip()
        super().__init__(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line))

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows in its place."""
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
