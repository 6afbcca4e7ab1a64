"""The memory that TensorFlow Lite Micro takes for a network, measured where its Python package is."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile

_PLENTY = 1 << 26
_PROGRAM = f"""
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size={_PLENTY}).print_allocations()
"""


def arena_size(content: bytes) -> int | None:
    """Return the bytes of the tensor arena on this machine, for the operators' reference implementations.

    None without the package tflite-micro, or if that can't run the model. It runs in a process of its own, since it
    writes the size to stderr alone, and may crash.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(content)
        file.flush()
        run = subprocess.run([sys.executable, "-c", _PROGRAM, file.name], capture_output=True, text=True)
    size = re.search(r"Arena allocation total (\d+) bytes", run.stdout + run.stderr)
    return int(size[1]) if size else None
