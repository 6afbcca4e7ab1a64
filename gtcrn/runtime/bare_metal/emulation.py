"""A C file of task=export compiled for a core without an operating system, and run on it in an emulator.

With -icount shift=0 an instruction takes a nanosecond of the emulated time, so counts repeat, on Cortex-M up to a tick
of the board's clock, which is some 40 instructions. They are instructions, not cycles. How many there are depends on
the compiler.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.c_code import Source

HERE = Path(__file__).parent
_TIMEOUT = 300  # s of a run, for a machine that is busy


class Machine(NamedTuple):
    """A kind of cores, and the tools that compile for it and emulate it.

    prefix: of the compiler's tools. packages: Debian's, with the compiler and with the emulator. startup: the file of
    this folder with what runs before main. options: of the compiler.
    """

    prefix: str
    emulator: str
    packages: tuple[str, str]
    startup: str
    options: tuple[str, ...]


class Core(NamedTuple):
    """A core, and the board with it that is emulated.

    options: of the compiler. board: of the emulator. clock: MHz. code, ram: where the board has memory for them.
    """

    machine: Machine
    options: tuple[str, ...]
    board: tuple[str, ...]
    clock: int = 25
    code: int = 0
    code_size: str = "4M"
    ram: int = 0x20000000


CORTEX_M = Machine(
    "arm-none-eabi-",
    "qemu-system-arm",
    ("gcc-arm-none-eabi and libnewlib-arm-none-eabi", "qemu-system-arm"),
    "cortex_m.c",
    ("-mthumb", "-mfloat-abi=hard", "--specs=nano.specs", "--specs=nosys.specs"),
)
RISCV = Machine(
    "riscv64-unknown-elf-",
    "qemu-system-riscv32",
    ("gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf", "qemu-system-misc"),
    "riscv.c",
    ("-mabi=ilp32", "-mno-relax", "-Wl,--no-relax", "--specs=picolibc.specs"),
)
CORES = {
    "m4f": Core(CORTEX_M, ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), ("mps2-an386",)),
    "m7": Core(CORTEX_M, ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"), ("mps2-an500",)),
    "m33": Core(CORTEX_M, ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16"), ("mps2-an505",), 20, 0x10000000, ram=0x38000000),
    "m55": Core(CORTEX_M, ("-mcpu=cortex-m55", "-mfpu=auto"), ("mps3-an547",), 32, code_size="512K"),
    "rv32imc": Core(RISCV, ("-march=rv32imc",), ("virt", "-bios", "none"), code=0x80000000, ram=0x80400000),
}


class Counts(NamedTuple):
    """The instructions that a core counted, and the memory that it used.

    network, hop: instructions of the network alone and of a whole hop. state: bytes. stack, stack_int16: bytes of stack
    of process() and of process_int16().
    """

    network: int
    hop: int
    state: int
    stack: int
    stack_int16: int

    @property
    def ram(self) -> int:
        """Return the bytes of the state and of the larger stack."""
        return self.state + max(self.stack, self.stack_int16)


class Footprint(NamedTuple):
    """The bytes of flash that a file takes without the C library, and those of every table and function by its name."""

    code: int
    constants: int
    parts: dict[str, int]

    @property
    def flash(self) -> int:
        """Return the bytes of code and constants."""
        return self.code + self.constants


def require_tools(core: str) -> None:
    """Raise UserError if the compiler or the emulator of a core is missing."""
    machine = CORES[core].machine
    for tool, package in zip((f"{machine.prefix}gcc", machine.emulator), machine.packages):
        if not shutil.which(tool):
            raise UserError(f"{tool} is missing, which {core} needs: install Debian's {package}")


def footprint(source: Source, core: str, folder: Path, flags: Sequence[str] = ("-O2",)) -> Footprint:
    """Compile a file for a core, into a folder, and measure it. Raises UserError if it does not compile."""
    prefix, compiled = CORES[core].machine.prefix, folder / "file.o"
    _compile(source, core, ["-c", source.file, "-o", compiled], flags)
    sizes = {"code": 0, "constants": 0}
    for line in _run(f"{prefix}size", "-A", compiled).splitlines():
        name, *numbers = line.split() or [""]
        if name.startswith((".text", ".rodata", ".srodata", ".data", ".sdata")):
            sizes["code" if name.startswith(".text") else "constants"] += int(numbers[0])
    symbols = (line.split() for line in _run(f"{prefix}nm", "-S", compiled).splitlines())
    return Footprint(**sizes, parts={words[3]: int(words[1], 16) for words in symbols if len(words) == 4})


def emulate(source: Source, core: str, folder: Path, flags: Sequence[str] = ("-O2",)) -> Counts:
    """Run a file on a core over samples.bin of a folder, where main.c writes what comes of it.

    flags: of the compiler; -DCODES runs it over codes.bin, too. Raises UserError if it does not compile, does not fit
    the emulated board, or fails on it.
    """
    machine, options, board, clock, code, code_size, ram = CORES[core]
    program = folder / "program.elf"
    symbols = {"CODE": code, "CODE_SIZE": code_size, "RAM": ram}
    linked = ["-nostartfiles", "-T", HERE / "memory.ld", *(f"-Wl,--defsym={name}={at}" for name, at in symbols.items())]
    names = f'-DMODEL="{source.file.absolute()}"', f"-DNAME={source.name}", f"-DPS_OF_A_TICK={1_000_000 // clock}"
    files = HERE / machine.startup, HERE / "main.c"
    _compile(source, core, [*names, *linked, *files, "-lm", "-o", program], flags)
    semihosting = "-semihosting-config", "enable=on,target=native", "-icount", "shift=0"
    quiet = "-nographic", "-monitor", "none", "-serial", "none"
    told = _run(machine.emulator, "-M", *board, "-kernel", program.absolute(), *semihosting, *quiet, cwd=folder)
    return Counts(**json.loads(told.strip().splitlines()[-1]))


def measured(
    source: Source, core: str, samples: np.ndarray, folder: Path, flags: Sequence[str] = ("-O2",)
) -> tuple[Counts, Footprint]:
    """Return the counts of a file over the whole hops of samples (N,) on a core, and its footprint.

    folder: for what is compiled. flags: of the compiler. Raises UserError as `emulate` does.
    """
    hop = source.signal.hop_length
    samples[: len(samples) // hop * hop].astype(np.float32).tofile(folder / "samples.bin")
    return emulate(source, core, folder, flags), footprint(source, core, folder, flags)


def state_parts(source: Source) -> dict[str, int]:
    """Return the bytes of the arrays in a file's state, by name."""
    bytes_of = {"float": 4, "int32_t": 4, "uint32_t": 4, "int16_t": 2, "uint16_t": 2, "int8_t": 1, "uint8_t": 1}
    header = source.header.read_text(encoding="utf-8")
    found = re.findall(r"^    (\w+) (\w+)\[(\d+)\];", header, re.MULTILINE)
    return {name: bytes_of[kind] * int(count) for kind, name, count in found}


def _compile(source: Source, core: str, command: Sequence[str | Path], flags: Sequence[str]) -> None:
    machine, options, *_ = CORES[core]
    compiler = f"{machine.prefix}gcc", "-std=gnu99", *machine.options, *options, *flags
    done = subprocess.run([*compiler, *command], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines()
        reason = next((line for line in lines if "overflowed" in line or "rror: " in line), "no reason given")
        raise UserError(f"{source.file}: does not compile for {core} with {' '.join(flags)}: {reason}")


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return what a tool prints. Raises UserError if it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]}: takes more than {_TIMEOUT} s, and was ended") from error
    if done.returncode:
        reason = " ".join(done.stderr.split()) or "no reason given"
        raise UserError(f"{command[0]}: ended with status {done.returncode}: {reason}")
    return done.stdout + done.stderr
