"""FastEnhancer gives what its authors' code gives, as a whole and frame by frame, from weights as they are trained and
as they are folded."""

import numpy as np
import pytest
import soundfile
import torch
from fixtures.commands import compose
from hydra.utils import instantiate

import gtcrn
from gtcrn.errors import UserError
from gtcrn.models import fastenhancer
from gtcrn.models.pretrained import open_checkpoint, to_official

GOLDEN = {"t": "fastenhancer_t", "b": "fastenhancer_b", "s": "fastenhancer_s", "t_48k": "fastenhancer_48k_t"}
# as it is trained, and folded; the latter are published, in thousands for those at 16 kHz
PARAMETERS = {
    "fastenhancer_t": (22_451, 21_774),
    "fastenhancer_b": (93_087, 91_430),
    "fastenhancer_s": (196_819, 194_418),
    "fastenhancer_m": (495_987, 491_594),
    "fastenhancer_l": (1_111_907, 1_104_610),
    "fastenhancer_48k_t": (28_755, 28_078),
    "fastenhancer_48k_b": (102_735, 101_078),
    "fastenhancer_48k_s": (209_683, 207_282),
    "fastenhancer_48k_m": (516_147, 511_754),
}


def configured(name, *overrides):
    return instantiate(compose(f"model={name}", *overrides).model).eval().requires_grad_(False)


@pytest.mark.parametrize("size", GOLDEN)
@torch.inference_mode()
def test_golden_noise(references, size):
    """Within 1e-5 of the peak of the authors' output in float64, whose own float32 is 4e-7 to 6e-7 from it."""
    enhancer = gtcrn.load(references / "fastenhancer" / f"fastenhancer_{size}_random.pth", padding="reflect")
    arrays = np.load(references / "golden" / f"fastenhancer_{size}_random" / "noise_1s.npz")
    wave, exact = torch.from_numpy(arrays["wave"])[None], torch.from_numpy(arrays["out64"])
    whole = enhancer(wave)[0][0, : len(exact)]
    hop = enhancer.hop_length
    before, after = wave[:, 1 : hop + 1].flip(1), wave[:, -hop - 1 : -1].flip(1)  # as the authors mirror the ends
    state, frames = enhancer.initial_state(1) | {"analysis": before}, []
    for chunk in torch.cat([wave, after], dim=1)[:, : len(exact) + hop].split(hop, dim=1):
        frame, state = enhancer(chunk, state)
        frames.append(frame)
    streamed = torch.cat(frames, dim=1)[0, hop:]
    for ours in (whole, streamed):
        assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


@torch.inference_mode()
def test_golden_waveforms_of_folded_weights(references, recordings):
    enhancer = gtcrn.load(references / "fastenhancer" / "fastenhancer_t_port.pth", padding="reflect")
    for path in sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav")):
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        expected = np.load(references / "golden" / "fastenhancer_t_port" / f"{path.stem}.npy").squeeze()
        whole = len(wave) // 256 * 256  # theirs ends with the last whole hop
        assert np.abs(enhancer(wave[None])[0][0].numpy() - expected)[:whole].max() <= 1e-5


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    trained, folded = configured(name), configured(name, "model.weight_norm=false", "model.batch_norm=false")
    assert tuple(sum(p.numel() for p in model.parameters()) for model in (trained, folded)) == PARAMETERS[name]


@pytest.mark.parametrize("file", ["t_random", "t_48k_random", "t_port"])
def test_checkpoints_become_the_authors_again(references, file):
    path = references / "fastenhancer" / f"fastenhancer_{file}.pth"
    checkpoint = open_checkpoint(path)
    enhancer = checkpoint.blank()
    enhancer.core.load_state_dict(checkpoint.weights)
    official, converted = torch.load(path, weights_only=True), to_official(enhancer)
    assert converted.keys() == official.keys()
    assert all(torch.equal(converted[key], official[key]) for key in official)


def test_half_folded_weights_have_no_published_format(references):
    with pytest.raises(UserError, match="upsample.3.weight is no tensor of its published format"):
        to_official(gtcrn.load(references / "fastenhancer" / "fastenhancer_t_random.pth"))


@pytest.mark.parametrize("size", GOLDEN)
def test_a_checkpoint_is_of_the_configured_model(references, size):
    """Sizes are read off the tensors' shapes, rate and hop by what is published."""
    knobs = open_checkpoint(references / "fastenhancer" / f"fastenhancer_{size}_random.pth").knobs
    model = compose(f"model={GOLDEN[size]}").model
    assert knobs == {key: model[key] for key in knobs}


@pytest.mark.parametrize("name", ["fastenhancer_m", "fastenhancer_l", "fastenhancer_48k_m"])
def test_larger_sizes_have_their_own_hops(tmp_path, name):
    torch.save(to_official(instantiate(compose(f"model={name}").model)), tmp_path / "large.pth")
    knobs, model = open_checkpoint(tmp_path / "large.pth").knobs, compose(f"model={name}").model
    assert knobs == {key: model[key] for key in knobs}


def test_silence_trains():
    """Powers of zero have no finite slope."""
    torch.manual_seed(0)
    enhancer = fastenhancer.build()
    enhanced, spec = enhancer.estimate(torch.zeros(2, 4000))
    (enhanced.abs().mean() + spec.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in enhancer.parameters())


@pytest.mark.parametrize(
    "knobs",
    [
        {"channels": 0},
        {"layers": 33},
        {"kernel": 4},
        {"stride": 3},
        {"stride": 6},
        {"blocks": 0},
        {"block_channels": 18},
        {"block_channels": 21, "heads": 1},
        {"bands": 2},
        {"bands": 65},
        {"heads": 0},
        {"compression": 0},
        {"compression": 1.5},
        {"hop_length": 257},
        {"causal": False},
    ],
    ids=str,
)
def test_out_of_range_knob_is_named(knobs):
    key, value = next(iter(knobs.items()))
    with pytest.raises(UserError, match=f"model.{key}={value}") as raised:
        fastenhancer.build(**knobs)
    assert "\n" not in str(raised.value)
