"""Worker processes, which must not outlive the process that they work for."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import joblib


log = logging.getLogger(__name__)


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


def take_one_gpu() -> None:
    """Leave a worker of a pool one GPU of this machine, and the next worker the next one; do nothing elsewhere.

    The worker keeps it, since no process can change its GPUs once it has used one. If there are more workers than GPUs,
    they share them.
    """
    number = re.search(r"\d+$", multiprocessing.current_process().name)  # e.g. LokyProcess-2
    if multiprocessing.parent_process() is None or not number:
        return
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = visible.split(",")
    else:
        import torch  # here, since a command that only prints its help needs none

        gpus = list(map(str, range(torch.cuda.device_count())))
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[(int(number[0]) - 1) % len(gpus)]
        log.info("GPU %s, one of %d, is for this job", os.environ["CUDA_VISIBLE_DEVICES"], len(gpus))
