"""Whose weights a file holds is told as far as it is known, and no further."""

import json
import re
import shutil

import pytest
import torch

from gtcrn.export.graph import Graph
from gtcrn.export.metadata import UNSTATED, Weights, describe, weights_of
from gtcrn.models import light_v3
from gtcrn.models.pretrained import open_checkpoint
from gtcrn.reports.runs import choices_of
from gtcrn.revision import revision


def save_ours(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"enhancer.core.{key}": value for key, value in light_v3.build().core.state_dict().items()}
    record = {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {}}}
    torch.save({"gtcrn": record, "state_dict": weights}, path)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "origin", "licence"),
    [
        ("gtcrn/dns3_epoch87.tar", "Xiaobin-Rong/gtcrn), epoch 87", "MIT"),
        ("gtcrn/dns3_epoch96.tar", "Xiaobin-Rong/gtcrn), epoch 96", "MIT"),
        ("gtcrn/model_trained_on_vctk.tar", "trained on VCTK-DEMAND by its authors", "MIT"),
        ("light_v3/best_model_078.tar", "zerong7777-boop/gtcrn-light), epoch 78", "MIT"),
        ("micro/best_model_dns3.tar", "bglid/GTCRN-Micro), epoch 157", "MIT"),
        ("dtln/model.pth", "its model.h5 as converted to PyTorch", "Apache-2.0"),
        ("dtln/model.h5", "its model.h5", "MIT"),
        ("dtln/DTLN_norm_40h.h5", "DTLN_norm_40h.h5", "MIT"),
    ],
)
def test_published_weights_are_known(references, tmp_path, file, origin, licence):
    copy = shutil.copy(references / file, tmp_path / f"renamed{file[-4:]}")
    weights = weights_of(open_checkpoint(copy))
    assert origin in weights.origin and weights.licence.startswith(licence) and "repository" in weights.scores


def test_weights_of_others_are_not_given_a_licence(references, tmp_path):
    content = torch.load(references / "gtcrn/dns3_epoch96.tar", map_location="cpu", weights_only=True)["model"]
    content["encoder.en_convs.0.conv.bias"] += 1
    torch.save(content, tmp_path / "other.tar")
    weights = weights_of(open_checkpoint(tmp_path / "other.tar"))
    assert weights.licence == UNSTATED and weights.scores == ""
    assert re.fullmatch(r"an unknown checkpoint in the format of GTCRN's authors, SHA-256 [0-9a-f]{64}", weights.origin)


def test_our_weights_say_how_they_were_trained(tmp_path):
    alone = weights_of(save_ours(tmp_path / "best.ckpt"))
    assert alone.licence == UNSTATED and alone.origin.startswith("a checkpoint of this framework, away from the run")
    checkpoint = save_ours(tmp_path / "run" / "checkpoints" / "best.ckpt")
    hydra = tmp_path / "run" / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text("task: train\nrun_dir: ${hydra:runtime.output_dir}\n")
    (hydra / "overrides.yaml").write_text("- model=light_v3\n")
    choices = "hydra:\n  runtime:\n    choices:\n      data: vctk_demand\n      loss: ri_mag\n      model: light_v3\n"
    (hydra / "hydra.yaml").write_text(choices)
    origin = weights_of(checkpoint, choices_of(checkpoint.path)).origin
    assert origin.startswith("trained with this framework: model=light_v3 loss=ri_mag data=vctk_demand, SHA-256 ")


def test_a_file_describes_its_signal(system):
    enhancer = system("light_v3")
    enhancer.input_level = -25.5
    graph = Graph(enhancer, "spectrum")
    metadata = describe(graph, enhancer, Weights("a test", "MIT")).metadata()
    assert all(type(value) is str for value in metadata.values())
    expected = dict(system="GTCRN-Light v3", kind="spectrum", sample_rate="16000", n_fft="512", hop_length="256")
    expected |= dict(window="hann_sqrt", latency="256", input_level="-25.5", licence="MIT", origin="a test")
    assert metadata | expected == metadata
    assert {name: tuple(shape) for name, shape in json.loads(metadata["states"])} == {
        name: tuple(state.shape) for name, state in graph.states.items()
    }
    windows = {name: describe(Graph(system(name), "wave"), system(name), Weights("", "")).signal.window for name in
               ("tiny", "timbre_light")}  # fmt: skip
    assert windows == {"tiny": "rectangular", "timbre_light": "none"}


def test_revision_is_that_of_the_code():
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", revision())
