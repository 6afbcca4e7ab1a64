"""The instructions, stack, RAM and flash that C files of task=export take are measured on emulated microcontrollers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import rich.table
from tqdm import tqdm

from gtcrn.errors import UserError
from gtcrn.files import write_text
from gtcrn.plots.tables import markdown_table, rich_table, write_csv
from gtcrn.profiling.latency import noise, short_names
from gtcrn.runtime.bare_metal.emulation import measured, require_tools
from gtcrn.runtime.c_code import Source, read_source

SECONDS = 0.3  # of noise; without an FPU, silence takes an eighth less
_SPEED = ["", "core", "network\nM instructions", "hop\nM instructions", "clock\nMHz", "hop\nms", "of its time\n%"]
_MEMORY = [
    "",
    "core",
    "stack\nB",
    "stack, int16\nB",
    *(f"{part}\nKiB" for part in ("state", "RAM", "code", "tables", "flash")),
]
NOTES = [
    "Instructions of one hop as QEMU counts them, the most of any hop but the first; network: those of them that are "
    "between the STFT and its inverse. Instructions are no cycles: ms are at one instruction per cycle of the clock.",
    "stack: of process(), and of process_int16(). RAM: state and the larger stack. code, tables: of the file, without "
    "the C library; flash: both.",
]


def find_sources(files: Sequence[Path]) -> list[Source]:
    """Read the folders of C, or those of the .c files, each once. Raises UserError naming one that can't be used."""
    sources = {}
    for path in files:
        source = read_source(path.parent if path.suffix == ".c" else path)
        if path.suffix == ".c" and path.name != source.file.name:
            raise UserError(f"{path}: is not the file of task=export format=c, which is {source.file}")
        sources[source.path.resolve()] = source
    return list(sources.values())


def measure(
    sources: Sequence[Source], cores: Sequence[str], clocks: Mapping[str, float], flags: Sequence[str]
) -> pd.DataFrame:
    """Return a table with a row for every file on every core. clocks: MHz by core. flags: of the compiler.

    Raises UserError if a compiler or an emulator is missing, and for a file that does not compile or fit.
    """
    for core in cores:
        require_tools(core)
    rows = []
    names = short_names([source.file for source in sources])
    pairs = [(name, source, core) for name, source in zip(names, sources) for core in cores]
    for name, source, core in tqdm(pairs, "emulating", unit="core", disable=None):
        signal = source.signal
        samples = noise(signal.sample_rate)[: round(SECONDS * signal.sample_rate)]
        with tempfile.TemporaryDirectory() as folder:
            counts, size = measured(source, core, samples, Path(folder), flags)
        milliseconds = counts.hop / clocks[core] / 1e3
        rows.append(
            {
                "name": name,
                "core": core,
                "network_instructions": counts.network,
                "hop_instructions": counts.hop,
                "clock_mhz": clocks[core],
                "ms": milliseconds,
                "hop_ms": signal.hop_ms,
                "stack_bytes": counts.stack,
                "stack_int16_bytes": counts.stack_int16,
                "state_bytes": counts.state,
                "ram_bytes": counts.ram,
                "code_bytes": size.code,
                "constants_bytes": size.constants,
                "flash_bytes": size.flash,
            }
        )
    return pd.DataFrame(rows)


def terminal(table: pd.DataFrame) -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`."""
    return [rich_table(title, header, rows) for title, header, rows in _tables(table)]


def write(table: pd.DataFrame, flags: Sequence[str], folder: Path) -> list[Path]:
    """Write `mcu.md` and `mcu.csv`, and return their paths."""
    paths = [folder / f"mcu.{suffix}" for suffix in ("md", "csv")]
    parts = ["# A hop on a microcontroller"]
    for title, header, rows in _tables(table):
        parts += [f"## {title}", markdown_table([name.replace("\n", " ") for name in header], rows)]
    parts.append("\n".join(f"- {note}" for note in [*NOTES, f"Compiled with {' '.join(flags)}."]))
    write_text(paths[0], "\n\n".join(parts) + "\n")
    write_csv(table, paths[1], float_format="%.6g")
    return paths


def _tables(table: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    speed, memory = [], []
    for _, row in table.iterrows():
        instructions = (f"{row[f'{key}_instructions'] / 1e6:#.3g}" for key in ("network", "hop"))
        times = f"{row['clock_mhz']:g}", f"{row['ms']:.1f}", f"{100 * row['ms'] / row['hop_ms']:.0f}"
        stacks = (f"{row[key]:,}" for key in ("stack_bytes", "stack_int16_bytes"))
        sizes = (f"{row[f'{key}_bytes'] / 1024:.1f}" for key in ("state", "ram", "code", "constants", "flash"))
        speed.append([row["name"], row["core"], *instructions, *times])
        memory.append([row["name"], row["core"], *stacks, *sizes])
    return [("instructions", _SPEED, speed), ("memory", _MEMORY, memory)]
