"""Training begins with what a checkpoint has for the model, and with nothing that fits by coincidence."""

import pytest
import torch

from gtcrn.errors import UserError
from gtcrn.models import dtln, fastenhancer, gtcrn, light_v3, micro, timbre, ulunas
from gtcrn.models.initial_weights import initialise
from gtcrn.models.pretrained import open_checkpoint, to_official


@pytest.fixture
def published(tmp_path):
    """Writes a model in its authors' format and opens it."""

    def write(enhancer):
        torch.save({"model": to_official(enhancer)}, tmp_path / "published.tar")
        return open_checkpoint(tmp_path / "published.tar")

    return write


@pytest.fixture
def ours(tmp_path):
    """Writes a model as training does and opens it."""

    def write(module, **knobs):
        enhancer = module.build(**knobs)
        weights = {f"enhancer.{key}": value for key, value in enhancer.state_dict().items()}
        record = {"model": {"build": f"{module.__name__}.build", "knobs": knobs}}
        torch.save({"gtcrn": record, "state_dict": weights}, tmp_path / "ours.ckpt")
        return open_checkpoint(tmp_path / "ours.ckpt")

    return write


def snapshot(enhancer):
    return {key: value.clone() for key, value in enhancer.core.state_dict().items()}


def assert_as_reported(enhancer, before, checkpoint, report):
    """Loaded tensors are the file's, all others what they were."""
    for key, value in enhancer.core.state_dict().items():
        assert torch.equal(value, checkpoint.weights[key] if key in report.loaded else before[key]), key


@pytest.mark.parametrize(
    "enhancer",
    [
        gtcrn.build(),
        light_v3.build(causal=False),
        micro.build(),
        ulunas.build(),
        dtln.build(norm_stft=True),
        fastenhancer.build(),
    ],
    ids=["gtcrn", "light_v3", "micro", "ulunas", "dtln", "fastenhancer"],
)
def test_the_same_model_begins_with_all_of_it(published, enhancer):
    checkpoint = published(enhancer)
    fresh = checkpoint.blank()
    report = initialise(fresh, checkpoint)
    assert report.parameters == report.all_parameters
    assert not report.missing and not report.unused and not report.mismatched and not report.notes
    for key, value in fresh.core.state_dict().items():
        assert torch.equal(value, enhancer.core.state_dict()[key]), key


@pytest.mark.parametrize("file", ["gtcrn/dns3_epoch87.tar", "light_v3/best_model_078.tar", "dtln/model.h5"])
def test_published_files(references, file):
    checkpoint = open_checkpoint(references / file)
    assert initialise(checkpoint.blank(), checkpoint).loaded == tuple(checkpoint.blank().core.state_dict())


def test_causal_model_from_the_published_offline_one_says_so(references):
    checkpoint = open_checkpoint(references / "light_v3" / "best_model_078.tar")
    enhancer = light_v3.build()
    before = snapshot(enhancer)
    report = initialise(enhancer, checkpoint)
    assert (report.parameters, report.all_parameters) == (5540, 7640)
    assert report.missing == {"dual_path.1": 19} and not report.unused and not report.mismatched
    assert report.notes == ("the file's model is not causal (offline: it looks 22 frames ahead), this one is",)
    assert_as_reported(enhancer, before, checkpoint, report)
    assert enhancer.total_lookahead() == 0
    lines = report.lines()
    assert "126 tensors loaded, 5,540 of the model's 7,640 parameters" in lines[0]
    assert lines[1] == "  left at their random start, not in the file (tensors): dual_path.1 (19)"


def test_more_and_fewer_blocks(published):
    checkpoint = published(gtcrn.build(dpgrnn_count=2))
    report = initialise(gtcrn.build(dpgrnn_count=1), checkpoint)
    assert report.unused == {"dual_path.1": 32} and not report.missing and not report.mismatched
    report = initialise(gtcrn.build(dpgrnn_count=3), checkpoint)
    assert report.missing == {"dual_path.2": 32} and not report.unused and not report.mismatched


def test_more_layers_of_one_recurrent_module(published):
    checkpoint = published(dtln.build(layers=2))
    enhancer = dtln.build(layers=3)
    before = snapshot(enhancer)
    report = initialise(enhancer, checkpoint)
    assert len(report.missing) == 8 and all(key.endswith("_l2") for key in report.missing)
    assert_as_reported(enhancer, before, checkpoint, report)


def test_other_widths_name_both_shapes_and_load_no_part_of_a_layer(published):
    checkpoint = published(light_v3.build(causal=False))
    enhancer = light_v3.build(width_mult=0.5)
    before = snapshot(enhancer)
    report = initialise(enhancer, checkpoint)
    assert report.mismatched["encoder.0.pw.weight"] == "(12, 3, 1, 1) in the file, (8, 3, 1, 1) here"
    # a count has no shape of its own, and belongs to statistics that do not fit
    assert report.mismatched["encoder.0.bn.num_batches_tracked"] == "its layer has a tensor of another shape"
    assert "features.weight" in report.loaded
    assert_as_reported(enhancer, before, checkpoint, report)
    text = report.markdown()
    assert all(f"- {key}" in text for key in [*report.mismatched, *report.loaded])


def test_equal_shapes_of_another_class_are_not_loaded(published):
    """With one group and as many channels in as out, both kinds of convolution have weights of one shape."""
    checkpoint = published(micro.build(transposed=True, decoder_groups=1))
    enhancer = micro.build(transposed=False, decoder_groups=1)
    key = "decoder.0.depth_conv.weight"
    assert checkpoint.weights[key].shape == enhancer.core.state_dict()[key].shape
    before = snapshot(enhancer)
    report = initialise(enhancer, checkpoint)
    assert (
        "CausalConvTranspose2d in the file" in report.mismatched[key] and "CausalConv2d here" in report.mismatched[key]
    )
    assert "decoder.0.depth_conv.bias" in report.mismatched
    assert report.missing == {"decoder.3.conv": 2, "decoder.4.conv": 2} == report.unused
    assert_as_reported(enhancer, before, checkpoint, report)


def test_bands_of_another_rate_stay_the_models_own(published):
    checkpoint = published(gtcrn.build())
    enhancer = gtcrn.build(sample_rate=8000)
    before = snapshot(enhancer)
    report = initialise(enhancer, checkpoint)
    assert list(report.mismatched) == ["erb.erb_fc.weight", "erb.ierb_fc.weight"]
    assert report.notes == ("the file's model is one for 16000 Hz, this one for 8000 Hz",)
    assert_as_reported(enhancer, before, checkpoint, report)


def test_another_system_is_refused(published):
    with pytest.raises(UserError, match="holds GTCRN, but the model is LightV3; .* choose its model="):
        initialise(light_v3.build(), published(gtcrn.build()))


def test_nothing_that_fits_is_an_error(published):
    enhancer = dtln.build(lstm_size=64, basis_size=128, n_fft=256, hop_length=64)
    before = snapshot(enhancer)
    with pytest.raises(
        UserError, match=r"not one of the 24 trainable tensors fits .*\(512, 257\) in the file, \(256, "
    ):
        initialise(enhancer, published(dtln.build()))
    assert all(torch.equal(value, before[key]) for key, value in enhancer.core.state_dict().items())


def test_weights_of_reparametrised_layers_are_the_raw_ones(ours):
    knobs = {"channels": [4, 8], "strides": [2], "bottleneck_layers": 1}
    checkpoint = ours(timbre, **knobs)
    assert any("parametrizations" in key for key in checkpoint.weights)
    enhancer = timbre.build(**knobs)
    report = initialise(enhancer, checkpoint)
    assert not report.missing and not report.unused and not report.mismatched
    wave = torch.randn(1, 4800, dtype=torch.float64)
    plain = checkpoint.enhancer().double()(wave)[0]
    full = enhancer.double().eval()(wave)[0]
    torch.testing.assert_close(full, plain, rtol=0, atol=1e-5)  # of full scale: weights were folded in float32
    assert not any("parametrizations" in key for key in checkpoint.enhancer().state_dict())
