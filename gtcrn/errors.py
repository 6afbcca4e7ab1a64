"""The exceptions whose message is meant for the user, and functions that word messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # characters that end a line or control a terminal


def printable(text: object) -> str:
    """Return the text with characters that UTF-8 can't encode, as in names of some files, written as `\\udce9`."""
    return str(text).encode(errors="backslashreplace").decode()


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return the number and its noun, e.g. `1 file` or `2,000 files`. many: the plural where it is not `one` + s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return how a line about a misspelt name ends: with those that begin with it, the nearest one, or all of them."""
    names = list(names)
    near = [other for other in names if other.startswith(name)] or get_close_matches(name, names, n=1)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


class UserError(ValueError):
    """An error that the user can mend: a path, a key, a file.

    The message is one line that names the culprit and the fix; `run.py` prints it without a traceback and exits with
    code 2.
    """

    def __init__(self, message: object):
        # an error from a loader's worker process has that process's traceback before its message
        line = printable(message).rpartition(f"\n{__name__}.UserError: ")[2].strip()
        super().__init__(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows instead of a traceback."""
        return [str(self)]


class Terminated(KeyboardInterrupt):
    """The exception for SIGTERM. It is a KeyboardInterrupt, so that the same code handles it as Ctrl-C."""


class Interrupted(UserError):
    """The error that ends a run which the user stopped; the message says how to go on.

    code: the process's exit code, 130 after Ctrl-C and 143 after SIGTERM.
    """

    def __init__(self, message: object, code: int = 130):
        super().__init__(message)
        self.code = code

    @classmethod
    def by(cls, stop: BaseException, message: object) -> Interrupted:
        """Return the error that ends the run which the exception `stop` interrupted."""
        return cls(message, 143 if isinstance(stop, Terminated) else 130)
