"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: a path, a key, a file.

    The message is one line that names the culprit and the fix; `run.py` prints
    it without a traceback and exits with code 2.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in its place."""
        return [str(self)]


class Interrupted(UserError):
    """The user stopped it; the message says how to go on."""
