"""Published checkpoints: strict loading, golden outputs, conversion back, clear refusals."""

import pickle

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

import gtcrn
from gtcrn.errors import UserError
from gtcrn.models import gtcrn as gtcrn_model
from gtcrn.models import light_v3
from gtcrn.models.pretrained import to_official

PUBLISHED = {
    "gtcrn_dns3": "gtcrn/dns3_epoch87.tar",
    "light_v3_078": "light_v3/best_model_078.tar",
    "micro_dns3": "micro/best_model_dns3.tar",
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def two_threads():
    """As the authors' outputs were made: one thread sums GTCRN-Micro's 1×1 convolutions in another order, which is
    2.7e-5 away, where they themselves are 4.8e-5 from double precision."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("golden", PUBLISHED)
def test_golden_spectra(references, golden, two_threads):
    enhancer = gtcrn.load(references / PUBLISHED[golden], padding="reflect")
    arrays = np.load(references / "golden" / golden / "spec_1s.npz")
    spec, expected = (torch.from_numpy(arrays[name]).permute(0, 3, 2, 1) for name in ("inp", "out"))
    assert (enhancer.core(spec)[0] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("golden", PUBLISHED)
def test_golden_waveforms(references, recordings, golden):
    enhancer = gtcrn.load(references / PUBLISHED[golden], padding="reflect")
    files = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))
    assert len(files) == 6
    for path in files:
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        expected = np.load(references / "golden" / golden / f"{path.stem}.npy").squeeze()
        assert np.abs(enhancer(wave)[0][0].numpy() - expected).max() <= 1e-5


def test_epoch_96_gives_what_the_authors_onnx_file_gives(references, recordings):
    enhancer = gtcrn.load(references / "gtcrn" / "dns3_epoch96.tar")
    session = onnxruntime.InferenceSession(references / "gtcrn" / "gtcrn_simple.onnx")
    wave, _ = soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")
    wave = torch.from_numpy(wave)[None]
    spec = enhancer.spectra(wave)
    caches = {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs() if node.name != "mix"}
    frames = []
    for t in range(spec.shape[2]):
        mix = spec[:, :, t : t + 1].permute(0, 3, 2, 1).numpy()
        enhanced, *after = session.run(None, {"mix": mix, **caches})
        caches = dict(zip(caches, after, strict=True))
        frames.append(enhanced)
    theirs = torch.from_numpy(np.concatenate(frames, axis=2)).permute(0, 3, 2, 1)
    ours = enhancer.core(spec)[0]
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())
    assert (enhancer.waveform(ours, wave.shape[1]) - enhancer.waveform(theirs, wave.shape[1])).abs().max() <= 1e-5


@pytest.mark.parametrize("file", [*PUBLISHED.values(), "gtcrn/dns3_epoch96.tar"])
def test_conversion_back_to_official_keys(references, file):
    official = torch.load(references / file, map_location="cpu", weights_only=True)["model"]
    converted = to_official(gtcrn.load(references / file))
    assert converted.keys() == official.keys()
    assert all(torch.equal(converted[key], official[key]) for key in official)


@pytest.mark.parametrize(
    "enhancer",
    [
        gtcrn_model.build(),
        gtcrn_model.build(
            channels=8, dpgrnn_count=3, hidden_size=24, erb_low_bins=33, erb_bands=32, n_fft=256, hop_length=128
        ),
        light_v3.build(causal=False),
        light_v3.build(width_mult=0.5, use_two_dpgrnn=False, rnn_bidirectional=False, r=16, causal=False),
    ],
    ids=["gtcrn", "gtcrn-other-sizes", "light-two", "light-narrow"],
)
@pytest.mark.parametrize(
    "wrap", [lambda s: {"model": s}, lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}]
)
def test_any_checkpoint_of_these_systems_loads(tmp_path, enhancer, wrap):
    """Sizes are read off the tensors' shapes, wrappers and DistributedDataParallel's prefix are seen through."""
    path = tmp_path / "anything.bin"
    torch.save(wrap(to_official(enhancer)), path)
    loaded = gtcrn.load(path)
    wave = torch.randn(1, 4000)
    assert torch.equal(loaded(wave)[0], enhancer.eval()(wave)[0])


def test_our_filterbank_is_the_authors(references):
    published = gtcrn.load(references / PUBLISHED["gtcrn_dns3"]).core.erb.erb_fc.weight
    torch.testing.assert_close(gtcrn_model.build().core.erb.erb_fc.weight, published, atol=1e-6, rtol=0)


class Opener:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_code_in_a_pickle_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"model": Opener()}, path)
    with pytest.raises(UserError, match="refused, because its pickle holds code"):
        gtcrn.load(path)
    with path.open("wb") as file:
        pickle.dump({"model": Opener()}, file)
    with pytest.raises(UserError, match="refused|damaged"):
        gtcrn.load(path)
    assert "code in a checkpoint" not in capsys.readouterr().out


def test_what_does_not_fit_is_named(tmp_path, references):
    with pytest.raises(UserError, match="no such file"):
        gtcrn.load(tmp_path / "nowhere.tar")
    garbage = tmp_path / "garbage.tar"
    garbage.write_bytes(b"not a checkpoint at all")
    with pytest.raises(UserError, match="damaged, or not a PyTorch checkpoint"):
        gtcrn.load(garbage)
    whole = (references / PUBLISHED["gtcrn_dns3"]).read_bytes()
    garbage.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        gtcrn.load(garbage)
    torch.save({"model": {"conv.weight": torch.zeros(3)}}, garbage)
    with pytest.raises(UserError, match="holds 1 tensors .conv.weight, .*which is none of: GTCRN, GTCRN-Light v3"):
        gtcrn.load(garbage)
    official = torch.load(references / PUBLISHED["gtcrn_dns3"], map_location="cpu", weights_only=True)["model"]
    official.pop("encoder.en_convs.2.tra.att_fc.bias")
    torch.save({"model": official}, garbage)
    with pytest.raises(UserError, match=r"looks like GTCRN, but encoder.2.tra.att_fc.bias is missing \(1 tensors"):
        gtcrn.load(garbage)


def test_padding_is_a_key(references):
    assert gtcrn.load(references / PUBLISHED["gtcrn_dns3"]).padding == "zeros"
    with pytest.raises(UserError, match="padding=mirror: must be one of zeros, reflect"):
        gtcrn.load(references / PUBLISHED["gtcrn_dns3"], padding="mirror")
    with pytest.raises(UserError, match="padding=reflect mirrors 256 samples"):
        gtcrn.load(references / PUBLISHED["gtcrn_dns3"], padding="reflect")(torch.zeros(1, 256))
