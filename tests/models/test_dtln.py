"""DTLN: published weights in both formats, edges, the state's worth, costs, knobs."""

import sys
import warnings

import h5py
import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

import gtcrn
from gtcrn.dsp.alignment import delay_of
from gtcrn.errors import UserError
from gtcrn.losses import SNR, CompressedMagnitude, Loss, Signals
from gtcrn.models import dtln
from gtcrn.models.pretrained import to_official
from gtcrn.profiling.cost import count_macs, count_macs_thop, measure


@pytest.fixture(scope="module")
def pairs(recordings) -> list[tuple[np.ndarray, np.ndarray]]:
    """(noisy, clean) of six real recordings."""
    files = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))
    assert len(files) == 6
    return [
        tuple(soundfile.read(path.parents[1] / kind / path.name, dtype="float32")[0] for kind in ("noisy", "clean"))
        for path in files
    ]


@pytest.fixture(scope="module")
def published(references):
    return {name: references / "dtln" / name for name in ("model.pth", "model.h5", "DTLN_norm_40h.h5")}


@torch.no_grad()
def enhance(enhancer, wave: np.ndarray) -> np.ndarray:
    return enhancer(torch.from_numpy(wave)[None])[0][0].numpy()


@torch.no_grad()
def stream(enhancer, wave: np.ndarray, hops: int = 1) -> np.ndarray:
    """Fed `hops` at a time."""
    state, outputs = enhancer.initial_state(1), []
    for chunk in torch.from_numpy(wave)[None].split(hops * enhancer.hop_length, dim=1):
        output, state = enhancer(chunk, state)
        outputs.append(output)
    return torch.cat(outputs, dim=1)[0].numpy()


@torch.no_grad()
def forgetful(enhancer, wave: np.ndarray, hops: int) -> np.ndarray:
    """Enhanced by LSTMs that begin anew every so many hops: all these beginnings are a batch."""
    frames = enhancer.core_input(torch.from_numpy(wave)[None])
    count = frames.shape[2]
    frames = torch.nn.functional.pad(frames, (0, 0, 0, -count % hops))
    enhanced, _ = enhancer.core(frames.reshape(-1, 1, hops, frames.shape[3]))
    return enhancer.waveform(enhanced.reshape(frames.shape)[:, :, :count], len(wave))[0].numpy()


def first_mask(enhancer, wave: np.ndarray) -> np.ndarray:
    masks = []
    hook = enhancer.core.magnitude_separation.register_forward_hook(
        lambda module, inputs, output: masks.append(output[0].numpy())
    )
    enhance(enhancer, wave)
    hook.remove()
    return masks[0]


def whole_hops(wave: np.ndarray) -> np.ndarray:
    return wave[: len(wave) // 128 * 128]


def si_sdr(estimate: np.ndarray, target: np.ndarray) -> float:
    estimate, target = estimate.astype(np.float64), target.astype(np.float64)
    projection = (estimate @ target) / (target @ target) * target
    return 10 * np.log10((projection @ projection) / np.square(estimate - projection).sum())


# --- published weights


@pytest.mark.parametrize("file", ["model.pth", "model.h5"])
def test_golden_waveforms(references, published, pairs, file):
    enhancer = gtcrn.load(published[file], padding="none")  # as the PyTorch port frames
    for number, (noisy, _) in enumerate(pairs, 1):
        golden = np.load(references / "golden" / "dtln_pytorch" / f"p287_00{number}.npy")
        assert np.abs(enhance(enhancer, noisy) - golden).max() <= 1e-5


def test_golden_first_mask(references, published):
    arrays = np.load(references / "golden" / "dtln_pytorch" / "spec_1s.npz")
    enhancer = gtcrn.load(published["model.pth"], padding="none")
    assert np.abs(first_mask(enhancer, arrays["wave"]) - arrays["mask1"]).max() <= 1e-5
    assert np.abs(enhance(enhancer, arrays["wave"]) - arrays["out_wave"]).max() <= 1e-5


def test_keras_weights_stream_as_the_authors_onnx_files_do(references, published, pairs):
    first, second = (onnxruntime.InferenceSession(references / "dtln" / f"model_{part}.onnx") for part in (1, 2))
    wave = whole_hops(pairs[1][0])
    states = [np.zeros((1, 2, 128, 2), np.float32)] * 2
    frame, overlap, theirs = np.zeros(512, np.float32), np.zeros(512, np.float32), []
    for hop in wave.reshape(-1, 128):
        frame = np.concatenate([frame[128:], hop])
        spectrum = np.fft.rfft(frame)
        inputs = {"input_2": np.abs(spectrum)[None, None].astype(np.float32), "input_3": states[0]}
        mask, states[0] = first.run(None, inputs)
        estimate = np.fft.irfft(mask * spectrum).astype(np.float32)
        decoded, states[1] = second.run(None, {"input_4": estimate, "input_5": states[1]})
        overlap = np.append(overlap[128:], np.zeros(128, np.float32)) + decoded[0, 0]
        theirs.append(overlap[:128])
    ours = stream(gtcrn.load(published["model.h5"]), wave)
    assert np.abs(ours - np.concatenate(theirs)).max() <= 1e-5


def keras_arrays(path) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {"kernel": …}} in double precision."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            arrays.setdefault(name.split("/")[0], {})[name.split("/")[-1][:-2]] = item[()].astype(np.float64)

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays


def authors_dtln_norm(path, wave: np.ndarray) -> np.ndarray:
    """The authors' formulas in double precision, frame by frame, without padding."""
    layers = keras_arrays(path)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def norm(x, name):
        normalised = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-7)
        return layers[name]["gamma"] * normalised + layers[name]["beta"]

    def lstm(x, name):
        hidden, cell, outputs = np.zeros(128), np.zeros(128), []
        for frame in x @ layers[name]["kernel"] + layers[name]["bias"]:
            i, f, g, o = np.split(frame + hidden @ layers[name]["recurrent_kernel"], 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(hidden)
        return np.stack(outputs)

    def mask(x, first, second, dense):
        return sigmoid(lstm(lstm(x, first), second) @ layers[dense]["kernel"] + layers[dense]["bias"])

    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), 512)[::128]
    spectrum = np.fft.rfft(frames)
    features = norm(np.log(np.abs(spectrum) + 1e-7), "instant_layer_normalization")
    frames = np.fft.irfft(mask(features, "lstm", "lstm_1", "dense") * spectrum)
    basis = frames @ layers["conv1d"]["kernel"][0]
    basis *= mask(norm(basis, "instant_layer_normalization_1"), "lstm_2", "lstm_3", "dense_1")
    output = np.zeros(len(wave))
    for t, frame in enumerate(basis @ layers["conv1d_1"]["kernel"][0]):
        output[128 * t : 128 * t + 512] += frame
    return output


def test_norm_weights_follow_the_authors_formulas(published, pairs):
    path = published["DTLN_norm_40h.h5"]
    theirs = authors_dtln_norm(path, pairs[0][0])
    assert np.abs(enhance(gtcrn.load(path, padding="none"), pairs[0][0]) - theirs).max() <= 1e-5
    assert np.abs(theirs).max() > 0.1


def test_first_mask_of_norm_does_not_depend_on_the_level(published, pairs):
    """The second one does: its normalisation floors the variance at a level that quiet input reaches."""
    changes = {}
    for file in ("model.h5", "DTLN_norm_40h.h5"):
        enhancer = gtcrn.load(published[file])
        loud, quiet = (first_mask(enhancer, np.float32(level) * pairs[2][0]) for level in (1, 0.1))
        changes[file] = np.abs(loud - quiet).max()
    assert changes["DTLN_norm_40h.h5"] < 0.1 < 0.5 < changes["model.h5"]


def test_conversion_back_is_bit_equal(published, tmp_path):
    official = torch.load(published["model.pth"], weights_only=True)
    for file in ("model.pth", "model.h5"):
        converted = to_official(gtcrn.load(published[file]))
        assert converted.keys() == official.keys()
        assert all(torch.equal(converted[key], official[key]) for key in official)
    norm = gtcrn.load(published["DTLN_norm_40h.h5"])
    torch.save(to_official(norm), tmp_path / "norm.pth")
    again = gtcrn.load(tmp_path / "norm.pth").state_dict()
    assert all(torch.equal(again[key], value) for key, value in norm.state_dict().items())


def test_sizes_are_read_off_the_tensors(tmp_path):
    enhancer = dtln.build(lstm_size=24, layers=3, basis_size=40, n_fft=1024, hop_length=256, sample_rate=32000).eval()
    torch.save({"model": to_official(enhancer)}, tmp_path / "any.bin")
    loaded = gtcrn.load(tmp_path / "any.bin")
    assert (loaded.sample_rate, loaded.hop_length, loaded.latency) == (32000, 256, 768)
    wave = np.random.default_rng(0).standard_normal(5000, np.float32)
    assert np.array_equal(enhance(loaded, wave), enhance(enhancer, wave))


def test_keras_files_that_do_not_fit_are_named(published, tmp_path, monkeypatch):
    path = tmp_path / "weights.h5"
    whole = published["model.h5"].read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:8] + bytes(1000), whole[:100_000] + bytes(len(whole) - 100_000)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="weights.h5: a damaged HDF5 file"):
            gtcrn.load(path)
    with h5py.File(path, "w") as file:
        file["anything"] = np.zeros(3)
    with pytest.raises(UserError, match="not weights saved by Keras 2"):
        gtcrn.load(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        group["dense/kernel:0"], group["dense/bias:0"] = np.zeros((3, 4)), np.zeros(4)
    with pytest.raises(UserError, match="Keras weights of 0 LSTM, 1 dense, .*expected DTLN's"):
        gtcrn.load(path)
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        del file["lstm_3/lstm_3/recurrent_kernel:0"]
        file["lstm_3/lstm_3/recurrent_kernel:0"] = np.zeros((64, 512), np.float32)
    with pytest.raises(UserError, match=r"looks like DTLN, but .*weight_hh_l1 is \(512, 64\), expected \(512, 128\)"):
        gtcrn.load(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="takes h5py to read: pip install h5py"):
        gtcrn.load(published["model.h5"])


# --- edges and state


def test_output_has_no_offset(published, pairs):
    enhancer = gtcrn.load(published["model.pth"])
    for noisy, _ in pairs[3:]:
        assert delay_of(lambda wave: enhance(enhancer, wave), noisy) == 0
        assert delay_of(lambda wave: stream(enhancer, wave, hops=100), whole_hops(noisy)) == enhancer.latency == 384


def test_ends_are_whole(published, pairs):
    """Of speech cut into half seconds. The published framing lets 384 samples at each end fade, of which the learned
    decoder takes the first ones from the beginning of frames, so that it is the last ones that suffer."""
    noisy, clean = (torch.from_numpy(wave[: 12 * 8000]).reshape(12, 8000) for wave in pairs[4])
    errors = {}
    for padding in ("zeros", "none"):
        with torch.no_grad():
            errors[padding] = (gtcrn.load(published["model.pth"], padding=padding)(noisy)[0] - clean).square()
    first, last = (
        errors["none"][:, end].sum() / errors["zeros"][:, end].sum() for end in (slice(384), slice(-384, None))
    )
    assert first > 1 and last > 5


def test_no_padding_takes_whole_frames():
    enhancer = dtln.build(padding="none").eval()
    assert not enhance(enhancer, np.ones(600, np.float32))[512:].any()  # published: an incomplete hop stays zero
    with pytest.raises(UserError, match="padding=none takes frames of 512 samples, but the signal has only 511"):
        enhance(enhancer, np.ones(511, np.float32))


@pytest.mark.parametrize(("file", "lost"), [("model.h5", 3), ("DTLN_norm_40h.h5", 8)])
def test_without_the_state_quality_is_lost(published, pairs, file, lost):
    """SI-SDR in dB. Measured, mean of all six recordings: DTLN 11.2 with state, 9.9, 8.0, 8.0 if it is forgotten every
    second, 200 ms, frame (the noisy recordings have 8.2); DTLN_norm 11.2, and 10.8, 9.8, 2.9.
    """
    enhancer = gtcrn.load(published[file])

    def score(enhanced_by, hops: int, late: int = 0) -> float:
        scores = []
        for noisy, clean in pairs[::2]:
            enhanced = enhanced_by(enhancer, whole_hops(noisy), hops)[late:]
            scores.append(si_sdr(enhanced, clean[: len(enhanced)]))
        return np.mean(scores)

    kept = score(stream, 125, enhancer.latency)
    forgotten_each_second, forgotten_each_frame = score(forgetful, 125), score(forgetful, 1)
    noisy = np.mean([si_sdr(noisy, clean) for noisy, clean in pairs[::2]])
    assert kept > noisy + 2.5
    assert forgotten_each_second < kept - 0.3
    assert forgotten_each_frame < min(kept - lost, noisy)


# --- costs, training, knobs


def test_costs():
    """The parameters and MACs of the port's authors, and of Keras, whose LSTMs have one bias where torch's have two."""
    core = dtln.build().eval().core
    parameters = sum(p.numel() for p in core.parameters())
    biases = sum(p.numel() for name, p in core.named_parameters() if "bias_ih" in name)
    assert parameters == 988_801 and parameters - biases == 986_753
    frames = torch.randn(1, 1, 122, 512)  # one second without padding
    exact = count_macs(core, frames)
    assert sum(exact.values()) / 1e6 == pytest.approx(120.009, abs=5e-4)
    assert count_macs_thop(core, frames) / 1e6 == pytest.approx(121.008, abs=5e-4)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        core(frames)
    seen = sum(macs for name, macs in exact.items() if not name.endswith("lstm"))  # the counter misses LSTMs
    assert seen == flops.get_total_flops() / 2
    three = dtln.build(layers=3).eval().core
    assert sum(count_macs(three, frames).values()) - sum(exact.values()) == 2 * 122 * (128 + 128) * 512


def test_measure():
    cost = measure(dtln.build(n_fft=1024, hop_length=256, sample_rate=32000))
    assert (cost.window_ms, cost.hop_ms, cost.lookahead_ms, cost.latency_ms, cost.frames) == (32, 8, 0, 32, 126)
    assert cost.state_bytes == 4 * (2 * 2 * 2 * 128 + 2 * 768)
    assert measure(dtln.build(padding="none")).frames == 122


def test_learns_with_waveform_and_spectral_losses_and_masks():
    torch.manual_seed(0)
    enhancer = dtln.build(lstm_size=32, basis_size=64, n_fft=256, hop_length=64)
    noisy = torch.randn(2, 4000)
    clean = noisy * torch.tensor([[0.3], [0.0]])  # one silent target
    loss = Loss({"snr": SNR(weight=1), "magnitude": CompressedMagnitude(weight=1, compression=0.3)})
    optimizer = torch.optim.Adam(enhancer.parameters(), 3e-3)
    totals = []
    for _ in range(20):
        estimate = Signals(*enhancer.estimate(noisy, masks=lambda spec: spec * torch.ones(129)))
        total, _ = loss(estimate, Signals(clean, enhancer.spectra(clean)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert np.isfinite(totals).all() and totals[-1] < totals[0] - 3
    assert all(p.grad.isfinite().all() and p.grad.any() for p in enhancer.parameters())
    silenced = enhancer.eval().estimate(noisy, masks=torch.zeros_like)[0]
    assert not silenced.any()


def test_half_precision_under_autocast():
    enhancer = dtln.build().eval()
    wave = torch.randn(1, 2000)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        enhanced, state = enhancer(wave)
        enhancer(wave[:, :128], state)
    assert enhanced.dtype == torch.float32 and enhanced.isfinite().all()


def test_dropout_acts_between_lstms_while_training():
    wave = torch.randn(1, 2000)
    enhancer = dtln.build(dropout=0.5)
    assert not torch.equal(enhancer(wave)[0], enhancer(wave)[0])
    assert torch.equal(enhancer.eval()(wave)[0], enhancer(wave)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = dtln.build(layers=1, dropout=0.5)
    assert torch.equal(single(wave)[0], single(wave)[0])


@pytest.mark.parametrize(
    "knob",
    [
        {"lstm_size": 0},
        {"layers": 0},
        {"basis_size": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"n_fft": 511},
        {"hop_length": 300},
        {"causal": False},
        {"padding": "mirror"},
    ],
    ids=str,
)
def test_out_of_range_knob_is_named(knob):
    ((key, value),) = knob.items()
    with pytest.raises(UserError, match=f"{key}={value}"):
        dtln.build(**knob)
