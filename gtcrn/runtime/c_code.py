"""A folder of task=export format=c as a stream: the file is compiled by the C compiler of this computer.

A folder is code: open none whose origin you do not trust.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.facts import Signal
from gtcrn.runtime.framing import Stream, stream_arguments
from gtcrn.runtime.integrity import METADATA, read_folder

# what else is asked of the file here: the size of its state, and its network alone, from codes to codes
_ACCESS = """
#include "{name}.c"
size_t state_size(void);
const int8_t *run_network({name}_state *state, const int8_t *input);
const int8_t *memory_of(const {name}_state *state);
const uint16_t *oldest_of(const {name}_state *state);
size_t state_size(void) {{ return sizeof({name}_state); }}
const int8_t *run_network({name}_state *state, const int8_t *input)
{{
    memcpy(state->input, input, sizeof state->input);
    network(state);
    return state->mask;
}}
const int8_t *memory_of(const {name}_state *state) {{ return state->memory; }}
const uint16_t *oldest_of(const {name}_state *state) {{ return state->at; }}
"""


class CDenoiser(Stream):
    """A stream through a folder of task=export format=c.

    Raises UserError if a file is missing or damaged, and without a C compiler.
    """

    def __init__(self, path: str | Path):
        code = CFile(Path(path))
        super().__init__(*stream_arguments(CStep(code), code.signal))


class Source(NamedTuple):
    """A folder of task=export format=c, neither damaged nor changed. The names of its functions begin with `name`."""

    path: Path
    name: str
    signal: Signal

    @property
    def file(self) -> Path:
        return self.path / f"{self.name}.c"

    @property
    def header(self) -> Path:
        return self.path / f"{self.name}.h"


def read_source(path: Path) -> Source:
    """Read a folder of task=export format=c. Raises UserError if it is no such folder, or is damaged."""
    found = sorted(file.stem for file in path.glob("*.h"))
    if len(found) != 1 or not all((path / name).is_file() for name in (f"{found[0]}.c", METADATA)):
        raise UserError(f"{path}: a folder of task=export format=c is needed, with NAME.c, NAME.h and {METADATA}")
    (name,) = found
    metadata = read_folder(path, (f"{name}.h", f"{name}.c"))
    try:
        return Source(path, name, Signal.read(metadata))
    except UserError as error:
        raise UserError(f"{path / METADATA}: {error}") from error


class CFile:
    """The file of a folder, compiled and loaded. signal: of its metadata.

    Raises UserError as `read_source` does, without a C compiler, and if the file does not compile.
    """

    def __init__(self, path: Path):
        _, self.name, self.signal = read_source(path)
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "access.c", Path(folder) / "access.so"
            source.write_text(_ACCESS.format(name=self.name))
            command = [*compiler(), "-std=c99", "-O2", "-shared", "-fPIC", "-I", str(path.absolute())]
            done = subprocess.run([*command, "-o", library, source, "-lm"], capture_output=True, text=True)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
                raise UserError(f"{path}: does not compile: {reason}")
            self.library = ctypes.CDLL(str(library))
        self.library.state_size.restype = ctypes.c_size_t
        for function in ("run_network", "memory_of", "oldest_of"):
            getattr(self.library, function).restype = ctypes.c_void_p

    def state(self) -> ctypes.Array:
        """Return a new state, at the beginning of a stream."""
        state = ctypes.create_string_buffer(self.library.state_size())
        getattr(self.library, f"{self.name}_init")(state)
        return state


class CStep:
    """A step of samples, (1, hop_length) float32."""

    def __init__(self, code: CFile):
        self._code, self._process = code, getattr(code.library, f"{code.name}_process")
        self._output = np.zeros((1, code.signal.hop_length), np.float32)
        self.reset()

    def reset(self) -> None:
        self._state = self._code.state()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        samples = np.ascontiguousarray(x, np.float32)
        self._process(self._state, *(ctypes.c_void_p(part.ctypes.data) for part in (samples, self._output)))
        return self._output


def compiler() -> list[str]:
    """Return the command of the C compiler, that of the variable CC if it is set. Raises UserError if there is none."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if not shutil.which(command[0]):
        raise UserError(
            f"{command[0]}: no such C compiler, which format=c needs; install gcc or clang, or name it by CC"
        )
    return command


def compiler_name() -> str:
    """Return the compiler with its version, as it states them."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True)
    return done.stdout.partition("\n")[0].strip() or compiler()[0]
