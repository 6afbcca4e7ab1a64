"""Networks in 8-bit integers, and their folders of C."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fixtures.integers import MODELS, noise, tiny  # noqa: F401

from gtcrn.data import audio
from gtcrn.export.c.writer import IntegerGraph, write
from gtcrn.export.metadata import Weights, describe
from gtcrn.models.enhancer import SpectralEnhancer
from gtcrn.quantization.calibration import quantize_enhancer
from gtcrn.quantization.network import Network
from gtcrn.runtime.c_code import CFile

# channels that are no multiple of four, an even kernel, gaps of three frames, four frames that overlap
OTHERS = {"other_sizes": dict(channels=6, kernel=4, blocks=2, dilation_growth=3, hop_length=16)}


class Model(NamedTuple):
    """A network, the model that it is of, and its folder."""

    name: str
    network: Network
    enhancer: SpectralEnhancer
    path: Path

    @property
    def source(self) -> Path:
        return self.path / f"{self.name}.c"


def made(name: str, enhancer: SpectralEnhancer, waves: list[np.ndarray], folder: Path) -> Model:
    network = quantize_enhancer(enhancer, "int8", waves)
    graph = IntegerGraph(network, enhancer.core)
    write(graph, folder / f"{name}_c", describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return Model(name, network, enhancer, folder / f"{name}_c")


@pytest.fixture(scope="session", params=[*MODELS, *OTHERS])
def small(request, noise, tmp_path_factory):  # noqa: F811
    """Return a small untrained model."""
    enhancer = tiny(**(MODELS | OTHERS)[request.param])
    return made(request.param, enhancer, [noise[:8000], noise[32000:40000]], tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="session")
def speech(recordings):
    """Return more than 3 s of real noisy speech, whole hops."""
    files = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))[:2]
    wave = np.concatenate([audio.load(file, 16000) for file in files])
    return wave[: len(wave) // 256 * 256]


@pytest.fixture(scope="session", params=["micro", "micro_int8"])
def large(request, system, speech, tmp_path_factory):
    """Return a model of the published size: the published one, and one that is not trained."""
    return made(request.param, system(request.param), [speech], tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="session")
def compiled():
    """Return a function that compiles and loads the folder of a model."""
    if not shutil.which("cc"):
        pytest.skip("cc is missing, which compiles C")
    files = {}
    return lambda model: files.setdefault(model.path, CFile(model.path))
