"""Ctrl-C while libraries are being imported."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ended_by_ctrl_c(cleanup: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the process at Ctrl-C, with one line and exit code 130, while the block imports libraries.

    An exception would not do: one that was raised while torch was being imported came out as a RecursionError, after
    14 seconds. Where Ctrl-C is ignored, as in a shell's background, it stays ignored.

    cleanup: is called before the process ends.
    """

    def end(number: int, frame: Any) -> None:
        cleanup()
        os.write(2, b"error: interrupted\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
