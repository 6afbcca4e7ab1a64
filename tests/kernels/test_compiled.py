"""Kernels are kept on disk where there is a folder to write to, and compiled each time where there is none."""

import os
import shutil
import subprocess
import sys

import numba
import numpy as np
import pytest

from gtcrn.kernels.compiled import gru, kernel

EXTENSION = """
from kernel import kernel


@kernel
def double(x):
    return x + x
"""


@pytest.mark.parametrize("writable", ["beside it", "user's cache", "nothing"])
def test_where_kernels_are_kept(tmp_path, writable):
    shutil.copy(kernel.__file__, tmp_path)
    (tmp_path / "extension.py").write_text(EXTENSION)
    (tmp_path / "file").touch()  # no folder can be made here, whoever the user is
    beside, cache = tmp_path / "__pycache__", tmp_path / "cache"
    if writable != "beside it":
        beside.touch()
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(cache if writable == "user's cache" else tmp_path / "file")
    program = [sys.executable, "-c", "import extension; assert extension.double(2.0) == 4"]
    subprocess.run(program, cwd=tmp_path, env=environment, check=True, timeout=120)
    expected = {"beside it": [beside], "user's cache": [cache], "nothing": []}[writable]
    kept = set(tmp_path.rglob("*.nbi"))
    assert [folder for folder in (beside, cache) if any(folder in path.parents for path in kept)] == expected


@numba.njit
def tanh_of(x, y):
    for n in range(x.size):
        y[n] = gru.tanh(x[n])


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_hyperbolic_tangent(dtype, error):
    x = np.concatenate([np.linspace(-12, 12, 10001), [0, 1e-30, -1e-5, np.inf, -np.inf]]).astype(dtype)
    y = np.empty_like(x)
    tanh_of(x, y)
    np.testing.assert_allclose(y, np.tanh(x.astype(np.longdouble)), rtol=error)
