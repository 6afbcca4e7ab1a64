"""Complete in a shell what Hydra does not: the words that a key takes, files, and names of weights.

eval "$(gtcrn -sc install=bash)"     # in a terminal, or in ~/.bashrc
"""

from __future__ import annotations

import glob
import os
from typing import Literal, get_args, get_origin

from gtcrn.tasks import keys
from gtcrn.tasks.checking import alternatives
from gtcrn.tasks.command_line import CONFIGS
from gtcrn.weights import entries

# of keys that may take other words too, and whose own lists would have to import torch
WORDS = {
    "format": ("onnx", "onnx_wave", "sherpa_onnx", "litert", "ncnn", "pt2", "c"),
    "quantize": ("int8", "int16x8", "mixed", "dynamic"),
}


def suggestions(line: str) -> list[str]:
    """Return what the last word of a command line may become; [] for what Hydra completes, as choices of groups."""
    *before, word = line.split(" ")
    key, equals, begun = word.partition("=")
    if not equals or (CONFIGS / key).is_dir():
        return []
    task = next((typed.removeprefix("task=") for typed in before if typed.startswith("task=")), "train")
    kinds = alternatives(keys.declared(task).get(key, str))  # keys within groups are not declared, and may name files
    words = WORDS.get(key) or [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if not words and str in kinds:
        words = files(begun) + (list(entries()) if key == "ckpt" else [])
    return [f"{key}={word}" for word in words if word.startswith(begun)]


def files(begun: str) -> list[str]:
    """Return the files and folders whose paths begin so, without those that would have to stand in quotes."""
    paths = (f"{path}/" if os.path.isdir(path) else path for path in sorted(glob.glob(f"{glob.escape(begun)}*")))
    return [path for path in paths if not set(path) & set(" =,'\"()[]{}")]
