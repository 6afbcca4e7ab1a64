"""Worker processes, which must not outlive the process that they work for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import joblib


def parallel() -> joblib.parallel_config:
    """Return the context in which `joblib.Parallel` uses processes of one thread each, which end with this one.

    They need no `if __name__ == "__main__"` in the caller's script.
    """
    import joblib  # here, since a command that only prints its help needs none

    return joblib.parallel_config("loky", inner_max_num_threads=1, initializer=begin)


def begin() -> None:
    """Prepare a worker process to end with its parent, and at Ctrl-C at once and without a message.

    A terminal sends Ctrl-C to workers too. As an exception it would be printed by each, or lost: code that is called
    from C prints it and goes on.
    """
    ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # as in a shell's background
    if not ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


@cache
def end_with_parent() -> None:
    """End this process soon after the one that started it, however that ended; do nothing in a first process.

    Without it the workers of a killed process would keep their memory for minutes, and write beside the next one's.
    """
    if multiprocessing.parent_process() is None:
        return
    started_by = os.getppid()  # the parent, or the server that forks for it and ends with it

    def watch() -> None:
        while os.getppid() == started_by:  # signals of a parent's death, such as Linux's, are not everywhere
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
