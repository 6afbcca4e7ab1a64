"""Ctrl-C and SIGTERM, which end a run alike: in one line, with exit code 130 or 143."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gtcrn.errors import Terminated


@contextmanager
def ended_at_once(cleanup: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the process at Ctrl-C and SIGTERM, with one line, while the block imports libraries.

    An exception would not do: one that was raised while torch was being imported came out as a RecursionError, after
    14 seconds. A signal that is ignored, as Ctrl-C is in a shell's background, stays ignored, and nothing changes in a
    program that handles Ctrl-C in a way of its own.

    cleanup: is called before the process ends.
    """

    def end(number: int, frame: Any) -> None:
        cleanup()
        os.write(2, b"error: interrupted\n")
        os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = before[signal.SIGINT] not in (signal.SIG_IGN, signal.default_int_handler)
    if own or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_at_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in this process from now on, and end one that is forked from it at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, partial(_terminate, os.getpid()))


def _terminate(process: int, number: int, frame: Any) -> None:
    if os.getpid() != process:
        os._exit(128 + number)
    raise Terminated
