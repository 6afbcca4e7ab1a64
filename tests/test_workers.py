"""Workers of a process that is killed or interrupted end with it, those that had nothing to do yet among them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

JOBLIB = """
import joblib, os, sys, time
from gtcrn.workers import parallel
with parallel():
    joblib.Parallel(2)(joblib.delayed(time.sleep)(0.5) for _ in range(2))
    pids = set(joblib.Parallel(2)(joblib.delayed(os.getpid)() for _ in range(20)))
"""
POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from gtcrn.workers import end_with_parent
pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"), end_with_parent)
pids = [pool.submit(os.getpid).result()]
"""


@pytest.mark.parametrize("begin", [JOBLIB, POOL], ids=["joblib", "pool"])
def test_workers_end_with_a_killed_parent(begin):
    script = f"{begin}print(*pids, flush=True)\ntime.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers and all(map(runs, workers))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 10
    while left := [pid for pid in workers if runs(pid)]:
        assert time.monotonic() < deadline, f"{left} outlived their parent"
        time.sleep(0.05)


INTERRUPTED = """
import multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from gtcrn.workers import begin
signal.signal(signal.SIGINT, signal.default_int_handler)  # not so where the tests run in the background
def deaf():  # as code that C calls back is
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(600)
try:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), begin) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(deaf).result()
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_workers_end_without_a_word_when_interrupted():
    script = [sys.executable, "-c", INTERRUPTED]
    process = subprocess.Popen(
        script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130 and not said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


GPUS = """
import joblib, json, multiprocessing, os, sys, time
from gtcrn.workers import take_one_gpu
def job(number):
    time.sleep(0.3)
    take_one_gpu()
    return multiprocessing.current_process().name, os.environ["CUDA_VISIBLE_DEVICES"]
found = joblib.Parallel(2)(joblib.delayed(job)(number) for number in range(6))
print(json.dumps([found, job(0)]))
"""


def test_each_worker_keeps_a_gpu_of_its_own():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "2,5"}
    done = subprocess.run(
        [sys.executable, "-c", GPUS], env=environment, stdout=subprocess.PIPE, check=True, timeout=120
    )
    jobs, (_, here) = json.loads(done.stdout)
    workers = dict(map(tuple, jobs))
    assert len(jobs) == 6 and set(map(tuple, jobs)) == set(workers.items()), "the GPU of a worker changed"
    assert len(set(workers.values())) == len(workers) == 2 and set(workers.values()) == {"2", "5"}
    assert here == "2,5", "a process that is no worker has all"


def runs(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    status = Path(f"/proc/{pid}/status")
    try:
        os.kill(pid, 0)
        return not status.exists() or "State:\tZ" not in status.read_text()
    except OSError:
        return False
