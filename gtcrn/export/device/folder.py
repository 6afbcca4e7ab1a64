"""A folder with all files that a firmware needs of a network."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from string import Template

from gtcrn.errors import UserError
from gtcrn.export.device.arena import arena_size
from gtcrn.export.device.model_file import read_model_file
from gtcrn.export.device.sources import values

FIRMWARE, TEMPLATES = (Path(__file__).parent / name for name in ("firmware", "templates"))


def write_device_files(tflite: Path, folder: Path) -> list[Path]:
    """Write the folder, instead of an older one, or leave all as it was, and return the paths of:

    README.md                      what all this is, how much memory it takes, how to use it
    the .tflite                    as it is
    gtcrn_model.h, gtcrn_model.c   the network's bytes, sizes, scales, zero points, states, bands, arena
    gtcrn_operators.h              operators to register, C++
    gtcrn_host.h, gtcrn_host.c     the float part, C99
    gtcrn_tflm.h, gtcrn_tflm.cc    TensorFlow Lite Micro around the network
    example.c, with_litert.py      a firmware's loop, and the network for it on a computer

    tflite: of integers, as this framework exports it. Raises UserError in one line if it is missing, damaged, not of
    integers, of another make or has what a device lacks, and if the folder holds other things or can't be written to.
    """
    network = read_model_file(tflite)
    try:
        facts = values(network, arena_size(network.content))
    except UserError as error:
        raise UserError(f"{tflite}: {error}") from error
    written = {
        path.name: Template(path.read_text(encoding="utf-8")).substitute(facts).encode() for path in TEMPLATES.iterdir()
    }
    written |= {path.name: path.read_bytes() for path in (*FIRMWARE.iterdir(), tflite) if path.is_file()}
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "gtcrn_model.h").exists():
        raise UserError(f"{folder}: holds other things than files for a device; name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # not in the system's temporary folder: only within one file system is a move all or nothing
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as partial:
            made = Path(partial) / folder.name
            made.mkdir()
            for name, content in written.items():
                (made / name).write_bytes(content)
            if folder.is_dir():
                shutil.rmtree(folder)
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f"{folder}: can't be written to ({error.strerror}); name another folder") from error
    return [folder / name for name in sorted(written)]
