"""torch.export programs (.pt2) as streams, which are searched for code before they are opened."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtcrn.errors import UserError
from gtcrn.runtime.facts import Signal, read_states
from gtcrn.runtime.framing import Stream, stream_arguments
from gtcrn.runtime.integrity import METADATA
from gtcrn.runtime.silence import silence

# The members of a program that task=export writes. Everything else that a program may hold can run code: pickles,
# libraries, guards, functions of any module, names that are pasted into source text.
_PROGRAM = "models/model.json"
_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_EXAMPLE = "data/sample_inputs/model.pt"
_MEMBERS = re.compile(
    rf"{_PROGRAM}|{_TABLES[0]}|{_TABLES[1]}|{_EXAMPLE}|data/weights/weight_\d+|data/constants/tensor_\d+|"
    rf"extra/{METADATA}|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
)
_NAME = r"(?!__)[A-Za-z_]\w*"
_DOTTED = rf"{_NAME}(\.(\d+|{_NAME}))*"
_TEXTS = {  # the texts that a key may have
    "target": rf"torch\.ops\.aten\.(?!from_file){_NAME}\.{_NAME}",
    **dict.fromkeys(("name", "forward_arg_names"), _NAME),
    **dict.fromkeys(("fqn", "buffer_name", "parameter_name", "path_name", "type"), rf"({_DOTTED})?"),
    # torch makes no code of these
    **dict.fromkeys(("nn_module_stack", "torch_fn", "in_spec", "out_spec", "torch_version", "verifiers"), "(?s:.*)"),
    "as_string": rf"{_NAME}",
}
_EMPTY = ("guards_code", "range_constraints", "custom_obj_values")
_UNWANTED = ("as_expr", "expr_str", "as_custom_obj", "as_graph", "as_operator", "source_fn_stack")


class Pt2Denoiser(Stream):
    """A stream through a .pt2 file.

    Raises UserError if the file is missing, damaged or was not written by task=export.
    """

    def __init__(self, path: str | Path):
        module, text = _load(Path(path))
        try:
            metadata = json.loads(text)
            step = _Step(module, list(read_states(metadata).values()))
            super().__init__(*stream_arguments(step, Signal.read(metadata)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: its {METADATA} does not say how it is fed ({error!r})") from error


class _Step:
    """A step of one hop, (1, hop_length) or (1, F, 1, 2) float32, through the program, whose states it keeps."""

    def __init__(self, module: torch.nn.Module, shapes: list[list[int]]):
        self._module, self._shapes = module, shapes
        self.reset()

    def reset(self) -> None:
        self._states = [torch.zeros(shape) for shape in self._shapes]

    @torch.inference_mode()
    def __call__(self, x: np.ndarray) -> np.ndarray:
        # copied, since a state that shares the input's memory would change with the caller's buffer
        y, *self._states = self._module(torch.tensor(x), *self._states)
        return y.numpy()


def _load(path: Path) -> tuple[torch.nn.Module, str]:
    """Return the program and the text of its metadata. Raises UserError if the file is missing, damaged or unsafe."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a .pt2 file of task=export is needed")
    archive = _checked_archive(path)
    extra = {METADATA: ""}
    try:
        with silence():
            program = torch.export.load(archive, extra_files=extra)
    except Exception as error:  # of many kinds: no archive, a part missing, an operator of another version
        raise UserError(f"{path}: damaged, or no torch.export program: {str(error).partition(chr(10))[0]}") from error
    if not extra[METADATA]:
        raise UserError(f"{path}: holds no {METADATA}; only programs of task=export say how they are fed")
    return program.module(), extra[METADATA]


def _checked_archive(path: Path) -> io.BytesIO:
    """Return an archive of exactly the members that were checked, for torch to open.

    Raises UserError for a program with parts that could run code when it is opened or called, which those of
    task=export have not, and for a damaged one, since torch does not check checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        foreign = next((name for name in members if not _MEMBERS.fullmatch(name)), None)
        program, *tables = (json.loads(members[name]) for name in (_PROGRAM, *_TABLES))
        example = members[_EXAMPLE]
    except Exception as error:  # zipfile raises a dozen types for damage
        raise UserError(f"{path}: damaged, or no torch.export program of this framework: {error}") from error
    problem = f"it holds {foreign}" if foreign else next(filter(None, map(_code_in, (program, *tables))), None)
    if not problem:
        try:
            torch.load(io.BytesIO(example), weights_only=True)
        except Exception:  # whatever damage makes the unpickler raise
            problem = "the pickle of its example holds code or objects, or is damaged"
    if problem:
        raise UserError(f"{path}: refused, because it may run code: {problem}; export the model anew by task=export")
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"program/{name}", content)
    plain.seek(0)
    return plain


def _code_in(value: Any, key: str = "") -> str | None:
    """Return which part of a program's description could become code, in a few words; None if there is none."""
    if key in _UNWANTED or (key in _EMPTY and value) or (key == "use_pickle" and value):
        return f"{key}: {str(value)[:50]}"
    if isinstance(value, str):
        return None if re.fullmatch(_TEXTS.get(key, "(?!)"), value) else f"{key}: {value[:50]}"
    if isinstance(value, dict):
        if named := next((name for name in value if not re.fullmatch(rf"({_DOTTED})?", name)), None):
            return f"the name {named[:50]}"
        return next(filter(None, (_code_in(one, key) for key, one in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_code_in(one, key) for one in value)), None)
    return None
