"""Mutated model files: checkpoints (`checkpoint_cases`, `check_checkpoint`) and exported ones (`exported_cases`,
`check_exported`), for `children.campaign`.

A case is (path of an intact file, kind of mutation, seed). The intact files are made anew: checkpoints of this
framework and, if GTCRN_REFERENCES names them, published ones; exports in every format that the installed packages can
write.
"""

from __future__ import annotations

import atexit
import io
import os
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from children import Wrong

from gtcrn.errors import UserError

Case = tuple[str, str, int]

PUBLISHED = (
    "gtcrn/dns3_epoch87.tar",
    "light_v3/best_model_078.tar",
    "micro/best_model_dns3.tar",
    "dtln/model.pth",
    "dtln/DTLN_norm_40h.h5",
)
PUBLISHED_ONNX = ("gtcrn/gtcrn_simple.onnx",)
_EDGE = 4096  # bytes at either end, where files keep their headers
_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**16, 255)


def checkpoint_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield cases for `check_checkpoint`, alternating between all kinds and files."""
    return _cases(_checkpoints(_folder()), count, seed)


def exported_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield cases for `check_exported`, alternating between all kinds and files."""
    return _cases(_exports(_folder()), count, seed)


def check_checkpoint(case: Case) -> None:
    """Open a mutated checkpoint.

    Raises `Wrong` if its weights or its model differ from the intact file's, though a checksum could have shown it.
    """
    from gtcrn.models.pretrained import open_checkpoint

    with mutated(case) as path:
        opened = open_checkpoint(path)
        enhancer = opened.enhancer()
        enhancer(torch.zeros(1, enhancer.hop_length * 4))
    if case[1] in WITH_CHECKSUMS or not zipfile.is_zipfile(case[0]):
        return
    expected = _opened(case[0])
    same = opened.build == expected.build and opened.knobs == expected.knobs
    weights, others = opened.weights, expected.weights
    if not (same and weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in others)):
        raise Wrong("other weights or another model")


def check_exported(case: Case) -> None:
    """Open and run a mutated exported file.

    Raises `Wrong` if the output of a file that this framework wrote differs from the intact one's."""
    with mutated(case) as path:
        output = _output(path)
    if case[1] not in WITH_CHECKSUMS and "published" not in case[0] and not np.array_equal(output, _expected(case[0])):
        raise Wrong("another output")


def _output(path: Path) -> np.ndarray:
    from gtcrn.runtime.runners import open_runner

    runner = open_runner(path)
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * 1024).astype(np.float32)
    return runner.process(noise[: len(noise) // runner.hop_length * runner.hop_length])


class mutated:
    """Write the mutated file of a case into a folder that exists within the block, and yield its path."""

    def __init__(self, case: Case):
        self.original, self.kind, self.seed = Path(case[0]), case[1], case[2]

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory()
        rng = random.Random(f"{self.original.name} {self.kind} {self.seed}")
        place = Path(self.folder.name)
        if self.original.suffix == ".param":  # ncnn: a folder of files
            for file in self.original.parent.iterdir():
                shutil.copy(file, place)
            path = rng.choice(sorted(place.iterdir()))
        else:
            path = Path(shutil.copy(self.original, place))
        content = bytes(path.read_bytes())
        path.write_bytes(MUTATIONS[self.kind](content, rng))
        return place / self.original.name

    def __exit__(self, *error) -> None:
        self.folder.cleanup()


# what can happen to a file: (content, rng) -> content


def _flip(content: bytes, rng: random.Random, count: int = 1, edge: bool = False) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        place = rng.randrange(len(changed))
        if edge and len(changed) > 2 * _EDGE:
            place = rng.choice((place % _EDGE, -1 - place % _EDGE))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(content: bytes, rng: random.Random) -> bytes:
    """Set an aligned 32-bit number near either end, as flatbuffers and headers have them, to an extreme one."""
    place = min(rng.choice((rng.randrange(_EDGE), len(content) - rng.randrange(_EDGE))), len(content) - 4) // 4 * 4
    place = max(place, 0)
    return content[:place] + struct.pack("<i", rng.choice(_NUMBERS)) + content[place + 4 :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 4, 100))) + content[place:]


def _zeros(content: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(content)), rng.choice((1, 16, 512, 4096))
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def _swap(content: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(content)) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _rezipped(content: bytes, rng: random.Random, change: Callable[[bytes, random.Random], bytes]) -> bytes:
    """Change one member of a zip archive and correct its checksum; change other files directly."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
            begin = min(member.header_offset for member in archive.infolist())
    except zipfile.BadZipFile:
        return change(content, rng)
    small = [name for name in members if members[name] and (len(members) < 3 or not name.split("/")[-1].isdigit())]
    name = rng.choice(small if rng.random() < 0.7 else [name for name in members if members[name]])
    members[name] = change(members[name], rng)
    kind = rng.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))
    buffer = io.BytesIO(content[:begin])
    with zipfile.ZipFile(buffer, "a", kind) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return buffer.getvalue()


def _without_member(content: bytes, rng: random.Random) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
            begin = min(member.header_offset for member in archive.infolist())
    except zipfile.BadZipFile:
        return _cut(content, rng)
    del members[rng.choice(sorted(members))]
    buffer = io.BytesIO(content[:begin])
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return buffer.getvalue()


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": _flip,
    "flip at an edge": partial(_flip, edge=True),
    "20 flips": partial(_flip, count=20),
    "20 flips at an edge": partial(_flip, count=20, edge=True),
    "number": _number,
    "cut": _cut,
    "insert": _insert,
    "zeros": _zeros,
    "swap": _swap,
    "member's flip": partial(_rezipped, change=_flip),
    "member's flips": partial(_rezipped, change=partial(_flip, count=5)),
    "member's cut": partial(_rezipped, change=_cut),
    "without a member": _without_member,
}
# somebody has written the file so: it may be another model, but must not do harm
WITH_CHECKSUMS = ("member's flip", "member's flips", "member's cut", "without a member")


def _cases(files: list[Path], count: int, seed: int) -> Iterator[Case]:
    kinds = list(MUTATIONS)
    for number in range(count):
        path = files[number % len(files)]
        yield str(path), kinds[number // len(files) % len(kinds)], seed * 1_000_000 + number


def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="model-files-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _published(names: tuple[str, ...], folder: Path) -> list[Path]:
    root = Path(os.environ.get("GTCRN_REFERENCES", "nowhere"))
    return [
        Path(shutil.copy(root / name, folder / f"published_{Path(name).name}"))
        for name in names
        if (root / name).is_file()
    ]


def _checkpoints(folder: Path) -> list[Path]:
    """Write checkpoints as a training does, with the optimiser's state; return them, and published ones."""
    from gtcrn.models import dtln, gtcrn, light_v3, micro, timbre

    torch.manual_seed(0)
    small = {
        light_v3.build: {"width_mult": 1.0, "padding": "zeros"},
        gtcrn.build: {"channels": 8, "hidden_size": 8},
        micro.build: {"channels": 8, "activation": "relu"},
        dtln.build: {"lstm_size": 8, "basis_size": 12, "n_fft": 64, "hop_length": 16},
        timbre.build: {"channels": [4, 8], "strides": [4], "kernel": 8, "hop_length": 16},
    }
    paths = []
    for build, knobs in small.items():
        enhancer = build(**knobs)
        optimizer = torch.optim.AdamW(enhancer.parameters())
        sum(p.sum() for p in enhancer.parameters() if p.requires_grad).backward()
        optimizer.step()
        name = build.__module__.rpartition(".")[2]
        content = {
            "epoch": 0,
            "global_step": 1,
            "state_dict": {f"enhancer.{key}": value for key, value in enhancer.state_dict().items()},
            "optimizer_states": [optimizer.state_dict()],
            "gtcrn": {"model": {"build": f"{build.__module__}.build", "knobs": knobs}},
        }
        paths.append(folder / f"{name}.ckpt")
        torch.save(content, paths[-1])
    return paths + _published(PUBLISHED, folder)


def _exports(folder: Path) -> list[Path]:
    """Write files as task=export does, except formats whose packages are missing, and return them."""
    from gtcrn.export.exporting import Export
    from gtcrn.export.formats import FORMATS, choose_kind
    from gtcrn.export.metadata import Weights
    from gtcrn.export.proof import Recording
    from gtcrn.models import dtln, micro
    from gtcrn.quantization.calibration import quantize_enhancer

    torch.manual_seed(0)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    tiny = dtln.build(lstm_size=8, basis_size=12, n_fft=64, hop_length=16).eval()
    device = micro.build(
        channels=4, stacks=1, blocks=2, decoder_groups=None, transposed=False, activation="relu"
    ).eval()
    facts = Weights("weights of a benchmark", "MIT"), Recording(noise, "1 s of noise"), "Not known."
    paths = _published(PUBLISHED_ONNX, folder)
    with suppress(UserError):
        integers = quantize_enhancer(device, "int8", [noise])
        paths.append(Export(device, "litert", "bands", "tiny", *facts, integers=integers).write(folder).path)
    for name in FORMATS:
        with suppress(UserError):
            model = device if name == "onnx" else tiny
            path = Export(model, name, choose_kind(model, name), "tiny", *facts).write(folder).path
            paths.append(path / "model.ncnn.param" if path.is_dir() else path)
    return paths


@lru_cache
def _opened(path: str):
    from gtcrn.models.pretrained import open_checkpoint

    return open_checkpoint(path)


@lru_cache
def _expected(path: str) -> np.ndarray:
    return _output(Path(path))
