"""Systems and their exported files, each made once for all tests and workers of a session."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn.utils import parametrize

import gtcrn
from gtcrn.data import audio
from gtcrn.export.exporting import Export
from gtcrn.export.formats import FORMATS
from gtcrn.export.metadata import Weights
from gtcrn.export.proof import Recording
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.reparametrisation import remove_reparametrisations

CONF = Path(__file__).parents[2] / "conf"
PUBLISHED = {
    "gtcrn": "gtcrn/dns3_epoch96.tar",
    "micro": "micro/best_model_dns3.tar",
    "dtln": "dtln/model.pth",
    "dtln_norm": "dtln/DTLN_norm_40h.h5",
}
UNTRAINED = {  # overrides
    "light_v3": "model=light_v3",
    "light_v3_one": "model=light_v3 model.use_two_dpgrnn=false model.rnn_bidirectional=false",
    "micro_int8": "model=micro_int8",
    "dtln_32k": "model=dtln_32k",
    "timbre_light": "model=timbre_light",
    # the least that there is to export
    "tiny": "model=dtln model.lstm_size=8 model.basis_size=12 model.n_fft=64 model.hop_length=16",
}


@pytest.fixture(scope="session")
def system(request) -> Callable[[str], Enhancer]:
    """A system by its name: published weights where there are any, else random ones."""

    def build(name: str) -> Enhancer:
        if name in PUBLISHED:
            return gtcrn.load(request.getfixturevalue("references") / PUBLISHED[name])
        with initialize_config_dir(str(CONF), version_base="1.3"):
            configuration = compose("config", UNTRAINED[name].split()).model
        torch.manual_seed(0)
        return _awake(instantiate(configuration))

    return build


@torch.no_grad()
def _awake(enhancer: Enhancer) -> Enhancer:
    """Statistics, biases and gains as in a trained network: fresh ones would hide a mistake."""
    for module in enhancer.modules():
        if parametrize.is_parametrized(module):
            module.parametrizations.weight.original0.mul_(2)
        if hasattr(module, "residual_scale"):
            torch.nn.init.ones_(module.residual_scale)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return remove_reparametrisations(enhancer).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, system, request) -> Callable[[str, str], Path]:
    """The file of a system in a format, beside its card."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "exported"
    folder.mkdir(exist_ok=True)

    def file(name: str, format: str) -> Path:
        path = folder / (name + FORMATS[format].suffix)
        with FileLock(folder / f"{path.name}.lock"):
            if not path.exists():
                enhancer = system(name)
                noise = np.random.default_rng(0).normal(0, 0.1, enhancer.sample_rate // 2).astype(np.float32)
                weights = Weights("weights of a test", "MIT")
                Export(enhancer, format, name, weights, Recording(noise, "0.5 s of noise"), "Not known.").write(folder)
        return path

    return file


@pytest.fixture(scope="session")
def noisy(recordings) -> np.ndarray:
    """Real noisy speech at 16 kHz, (N,), no whole number of hops."""
    return audio.load(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", 16000)
