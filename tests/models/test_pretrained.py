"""Published checkpoints: strict loading, golden outputs, conversion back, clear refusals."""

import io
import pickle
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import gtcrn
from gtcrn.errors import UserError
from gtcrn.models import dtln, light_v3
from gtcrn.models import gtcrn as gtcrn_model
from gtcrn.models.pretrained import BUILDERS, open_checkpoint, to_official
from gtcrn.streaming import flatten

PUBLISHED = {
    "gtcrn_dns3": "gtcrn/dns3_epoch87.tar",
    "light_v3_078": "light_v3/best_model_078.tar",
    "micro_dns3": "micro/best_model_dns3.tar",
}


def rms(x):
    return x.square().mean().sqrt()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# how far the authors' own outputs, of float32, lie from float64, on values of up to 8.8, 41 and 26
GOLDEN_ERRORS = {"gtcrn_dns3": 2.1e-5, "light_v3_078": 2.1e-4, "micro_dns3": 5e-5}


@pytest.mark.parametrize("golden", PUBLISHED)
def test_golden_spectra(references, golden):
    """In float64 ours is theirs but for the rounding of theirs; in float32 it rounds no more than twice as much.

    The latter in root mean square, 0.7 to 1.3 times theirs with every set of instructions and number of threads. The
    largest value is a matter of luck: gates of Light v3 see energies of 1000, whose last bits reach single bins, so
    that its worst one is 1.0e-4 to 4.9e-4 away. A single value that is wrong by 1e-4 of the peak would still be seen.
    """
    single, double = (gtcrn.load(references / PUBLISHED[golden], padding="reflect") for _ in range(2))
    arrays = np.load(references / "golden" / golden / "spec_1s.npz")
    spec, theirs = (torch.from_numpy(arrays[name]).permute(0, 3, 2, 1) for name in ("inp", "out"))
    exact = double.double().core(spec.double())[0]
    assert (theirs - exact).abs().max() <= GOLDEN_ERRORS[golden]
    assert rms(single.core(spec)[0] - exact) <= 2 * rms(theirs - exact)


def noisy_files(recordings):
    files = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))
    assert len(files) == 6
    return files


@pytest.mark.parametrize("golden", PUBLISHED)
def test_golden_waveforms(references, recordings, golden):
    """Within 1e-5 of full scale (-100 dB): theirs and ours in float32 are each at most 1.1e-6 from float64."""
    enhancer = gtcrn.load(references / PUBLISHED[golden], padding="reflect")
    for path in noisy_files(recordings):
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        expected = np.load(references / "golden" / golden / f"{path.stem}.npy").squeeze()
        assert np.abs(enhancer(wave)[0][0].numpy() - expected).max() <= 1e-5


def test_golden_waveforms_of_ulunas(references, recordings):
    """Within 1e-5 of full scale, frame by frame too. The authors leave the last incomplete hop silent."""
    enhancer = gtcrn.load(references / "ulunas" / "model_trained_on_dns3.tar", padding="reflect")
    for path in noisy_files(recordings):
        expected = np.load(references / "golden" / "ulunas_dns3" / f"{path.stem}.npy")
        expected = torch.from_numpy(expected[: len(expected) // 256 * 256])
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        assert (enhancer(wave)[0][0, : len(expected)] - expected).abs().max() <= 1e-5
        if path.stem == "p287_001":
            state, streamed = enhancer.initial_state(1) | {"analysis": wave[:, 1:257].flip(1)}, []
            for hop in wave[:, : len(expected)].split(256, dim=1):
                output, state = enhancer(hop, state)
                streamed.append(output[0])
            assert (torch.cat(streamed[1:]) - expected[:-256]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("weights", "file"),
    [
        ("gtcrn/dns3_epoch96.tar", "gtcrn/gtcrn_simple.onnx"),
        ("ulunas/model_trained_on_dns3.tar", "ulunas/ulunas_stream_simple.onnx"),
    ],
)
def test_streams_give_what_the_authors_onnx_files_give(references, recordings, weights, file):
    enhancer = gtcrn.load(references / weights)
    session = onnxruntime.InferenceSession(references / file)
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
    ours, state = enhancer.core(spec)
    if "tfa_cache" in caches:
        assert_same_states(state, caches)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (enhancer.waveform(ours, wave.shape[1]) - enhancer.waveform(theirs, wave.shape[1])).abs().max() <= 1e-5


def assert_same_states(state, caches):
    """Ours of UL-UNAS in the order of its authors' three, where both GRUs of a band stand together."""
    ours = {"conv_cache": [], "tfa_cache": [], "inter_cache": []}
    for name, value in flatten(state["encoder"] | {"decoder": state["decoder"]}).items():
        ours["tfa_cache" if name.endswith(".att_gru") else "conv_cache"].append(value)
    for block in state["dual_path"].values():
        ours["inter_cache"].append(torch.cat(list(block["inter_rnn"].values()), dim=2))
    for name, parts in ours.items():
        packed = torch.cat([part.flatten() for part in parts]).numpy()
        assert packed.shape == caches[name][0].shape and np.abs(packed - caches[name][0]).max() <= 1e-4


@pytest.mark.parametrize("file", [*PUBLISHED.values(), "gtcrn/dns3_epoch96.tar", "ulunas/model_trained_on_dns3.tar"])
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


OURS = {"build": "gtcrn.models.dtln.build", "knobs": {"lstm_size": 8, "basis_size": 12, "n_fft": 64, "hop_length": 16}}


def save_ours(path, build=OURS["build"], weights=None, **knobs):
    """A checkpoint of a tiny DTLN, whose record may lie."""
    record = {"build": build, "knobs": OURS["knobs"] | knobs}
    state = dtln.build(**OURS["knobs"]).core.state_dict() | (weights or {})
    state_dict = {f"enhancer.core.{key}": value for key, value in state.items()}
    torch.save({"gtcrn": {"model": record}, "state_dict": state_dict}, path)


@pytest.mark.parametrize("place", ["first weights", "last weights", "pickle"])
def test_one_flipped_bit_is_noticed(tmp_path, place):
    """torch reads archives without comparing their checksums."""
    path = tmp_path / "ours.ckpt"
    save_ours(path)
    gtcrn.load(path)
    with zipfile.ZipFile(path) as archive:
        numbered = [member for member in archive.infolist() if "/data/" in member.filename]
        pickled = next(member for member in archive.infolist() if member.filename.endswith("data.pkl"))
    member = {"first weights": numbered[0], "last weights": numbered[-1], "pickle": pickled}[place]
    content = bytearray(path.read_bytes())
    begin = content.index(member.filename.encode()) + len(member.filename)
    content[begin + member.file_size // 2 + 64] ^= 1
    path.write_bytes(content)
    assert "damaged, or not a PyTorch checkpoint (a zip archive that is cut off" in refusal(path)


@settings(max_examples=40)
@given(some.data())
def test_damage_is_refused_or_without_effect(tmp_path, data):
    """Whatever bytes are changed, cut or put in: never other weights, never another error."""
    path = tmp_path / "damaged.ckpt"
    save_ours(path)
    expected, content = gtcrn.load(path), bytearray(path.read_bytes())
    places = some.integers(0, len(content) - 1)
    for place in data.draw(some.lists(places | places.map(lambda n: -1 - n % 3000), min_size=1, max_size=4)):
        replaced = data.draw(some.integers(0, 4))
        content[place : place + replaced or None] = data.draw(some.binary(max_size=4))
    path.write_bytes(content)
    try:
        loaded = gtcrn.load(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), expected.state_dict().values()))


def rezipped(path, change, kind=zipfile.ZIP_STORED):
    """The archive with its pickle changed, under the right checksum."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, value in members.items():
            archive.writestr(name, change(value) if name.endswith("data.pkl") else value)
    path.write_bytes(buffer.getvalue())


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path):
    """torch would read on in memory that is not the file's."""
    path = tmp_path / "long.ckpt"
    torch.save({"model": {"sep1.rnn1.weight_ih_l0": torch.zeros(7)}}, path)
    # 7 elements in the storage and in the shape, as pickle's one-byte numbers
    rezipped(path, lambda pickled: pickled.replace(b"K\x07", b"J\x00\x00\x00\x10"))
    assert "damaged, or not a PyTorch checkpoint" in refusal(path)


def test_a_compressed_archive_is_no_checkpoint(tmp_path):
    path = tmp_path / "bomb.ckpt"
    torch.save({"model": {"x": torch.zeros(10)}}, path)
    rezipped(path, lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    assert "damaged, or not a PyTorch checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "knobs",
    [
        {"lstm_size": 2**40},
        {"layers": 10**6},
        {"n_fft": 2**30, "hop_length": 2**29},
        {"sample_rate": 10**12},
        {"sample_rate": "16000"},
        {"basis_size": 2.5},
        {"layers": [2]},
        {"hop_length": None},
        {"norm_stft": "yes"},
    ],
    ids=str,
)
def test_no_size_in_a_record_costs_time_or_memory(tmp_path, knobs):
    save_ours(tmp_path / "large.ckpt", **knobs)
    begin = time.process_time()
    assert refusal(tmp_path / "large.ckpt")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    "weights",
    [
        {"encoder.weight": torch.zeros(12, 64).to_sparse()},
        {"encoder.weight": torch.zeros(12, 64, dtype=torch.complex64)},
        {"encoder.weight": torch.zeros(12, 64, dtype=torch.int64)},
        {"encoder.weight": torch.zeros(12, 64, device="meta")},
    ],
    ids=["sparse", "complex", "integer", "meta"],
)
def test_tensors_of_another_kind_are_named(tmp_path, weights):
    save_ours(tmp_path / "odd.ckpt", weights=weights)
    assert "encoder.weight holds" in refusal(tmp_path / "odd.ckpt")


def test_every_model_of_the_configuration_can_be_read_back():
    files = (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml")
    targets = [line.split()[1] for file in files for line in file.read_text().splitlines() if "_target_:" in line]
    assert len(targets) >= 5 and set(targets) == set(BUILDERS)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A checkpoint whose model is code outside this framework, and the file which that code leaves when it runs."""
    (tmp_path / "their_models.py").write_text(
        "from pathlib import Path\nfrom gtcrn.models.dtln import build\n"
        "Path(__file__).with_name('imported').touch()\nbroken = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    save_ours(tmp_path / "theirs.ckpt", "their_models.build")
    return tmp_path / "theirs.ckpt", tmp_path / "imported"


def test_code_outside_this_framework_needs_trust(foreign, caplog):
    path, imported = foreign
    assert refusal(path).startswith("asks for their_models.build, code outside this framework")
    with pytest.raises(UserError, match="set trust=true if you know"):
        gtcrn.load(path, trust="their_models.another")
    assert not imported.exists()
    assert gtcrn.load(path, trust=True).sample_rate == 16000
    assert imported.exists() and f"importing their_models.build, which {path} asks for" in caplog.text


def test_what_the_user_named_needs_no_trust(foreign):
    assert gtcrn.load(foreign[0], trust="their_models.build").sample_rate == 16000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtcrn.models.pretrained.load", "is not a model of this framework"),
        ("gtcrn.files.whole", "is not a model of this framework"),
        ("their_models.missing", "their_models.missing can't be imported (AttributeError"),
        ("their_models.broken", "made by another version of this framework"),
        ("builtins.dict", "builds no gtcrn.models.Enhancer"),
        ("nowhere", "nowhere can't be imported"),
    ],
)
def test_trust_does_not_help_what_is_no_model(foreign, name, message):
    path, _ = foreign
    save_ours(path, name)
    with pytest.raises(UserError) as error:
        gtcrn.load(path, trust=True)
    assert message in str(error.value) and "\n" not in str(error.value)


def refusal(path):
    with pytest.raises(UserError) as error:
        gtcrn.load(path)
    message = str(error.value)
    assert message.startswith(f"checkpoint {path}: ") and "\n" not in message
    return message.removeprefix(f"checkpoint {path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epoch,loss\n0,1.5\n", "damaged, or not a PyTorch checkpoint (it begins like a text)"),
        (b"", "damaged, or not a PyTorch checkpoint (it is empty)"),
        (bytes(range(255, 0, -1)), "damaged, or not a PyTorch checkpoint (its first bytes are of no known kind)"),
        (b"PK\x03\x04" + bytes(500), "(a zip archive that is cut off or holds something else)"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG picture; expected a PyTorch checkpoint"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "a TFLite file; expected a PyTorch checkpoint"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "a WAV file or another RIFF; expected"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"weight":{"dtype":"F32"', "a safetensors file; expected"),
    ],
    ids=["text", "empty", "bytes", "zip", "jpeg", "tflite", "wav", "safetensors"],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    told = refusal(path)
    assert message in told and "expected a PyTorch checkpoint (.ckpt, .tar, .pth) or DTLN's Keras weights (.h5)" in told


def test_places_that_are_no_files(tmp_path):
    assert refusal(tmp_path / "nowhere.tar") == "no such file"
    assert refusal(tmp_path) == "a folder without checkpoints/best.ckpt; name a file"


def test_the_folder_of_a_run_stands_for_its_best_weights(references, tmp_path):
    best = tmp_path / "model.r-8__seed-1" / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.write_bytes((references / "gtcrn/model_trained_on_vctk.tar").read_bytes())
    assert open_checkpoint(best.parents[1]).path == best


@pytest.mark.parametrize("file", ["dtln/model_1.onnx", "gtcrn/gtcrn_simple.onnx"])
def test_onnx_files_are_told_apart(references, file):
    assert refusal(references / file).startswith("an ONNX file; expected a PyTorch checkpoint")


def test_torchscript_is_told_apart(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt").startswith("a TorchScript program; expected")


def test_cut_off_checkpoint(tmp_path, references):
    whole = (references / PUBLISHED["gtcrn_dns3"]).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    assert "damaged, or not a PyTorch checkpoint (a zip archive that is cut off" in refusal(tmp_path / "cut.tar")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors, which is none of: GTCRN, GTCRN-Light v3, GTCRN-Micro, UL-UNAS, DTLN, "),
        ({"epoch": 3, "model": {}}, "holds no tensors"),
        ({1: torch.zeros(1), "lr": 0.1}, "holds no tensors"),
        (
            {"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.bias": torch.zeros(64)}},
            "holds 2 tensors (conv1.weight, layer1.0.bn1.bias, …), which is none of",
        ),
        ([torch.zeros(1)], "holds a list, expected a dict of tensors"),
        ({"gtcrn": {"model": None}, "state_dict": {}}, "of this framework, but without a record of its model"),
        ({"gtcrn": 3}, "of this framework, but without a record of its model"),
        ({"gtcrn": {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {"depth": 3}}}}, "another version"),
        ({"gtcrn": {"model": {"build": "gtcrn.models.light_v4.build", "knobs": {}}}}, "another version"),
        ({"gtcrn": {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {"r": 0}}}}, "model.r=0: must lie"),
        (
            {"gtcrn": {"model": {"build": "gtcrn.models.light_v3.build", "knobs": {}}}, "state_dict": {}},
            "looks like gtcrn.models.light_v3, but decoder.0.act.weight is missing (145 tensors do not fit)",
        ),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, str) else "",
)
def test_checkpoints_of_something_else(tmp_path, content, message):
    torch.save(content, tmp_path / "other.ckpt")
    assert message in refusal(tmp_path / "other.ckpt")


def test_a_tensor_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "light.tar"
    whole = to_official(light_v3.build(causal=False))

    def saved(**changes):
        state = {key: value for key, value in (whole | changes).items() if value is not None}
        torch.save({"model": state}, path)
        return refusal(path)

    key = "enc.blocks.2.pw.weight"
    looks = "looks like GTCRN-Light v3, but "
    assert saved(**{key: None}) == looks + "encoder.2.pw.weight is missing (1 tensors do not fit)"
    assert saved(**{key: torch.zeros(12, 9, 1, 1)}) == (
        looks + "encoder.2.pw.weight is (12, 9, 1, 1), expected (12, 12, 1, 1) (1 tensors do not fit)"
    )
    assert saved(extra=torch.zeros(1)) == looks + "extra is not used (1 tensors do not fit)"
    assert saved(**{"enc.blocks.0.pw.weight": None}) == looks + "'enc.blocks.0.pw.weight' is missing"
    assert saved(**{"erb.W_bm": torch.zeros(3)}) == looks + "a shape is impossible"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    """Loaded, they would give NaN, or noise at full scale without a word."""
    state = to_official(light_v3.build(causal=False))
    state["enc.blocks.2.pw.weight"][3, 5] = value
    torch.save({"model": state}, tmp_path / "light.tar")
    assert refusal(tmp_path / "light.tar") == (
        f"NaN or infinity in 1 of {len(state)} tensors, e.g. encoder.2.pw.weight; the training went wrong or the file "
        "is damaged, so take an earlier checkpoint"
    )


def test_padding_is_a_key(references):
    assert gtcrn.load(references / PUBLISHED["gtcrn_dns3"]).padding == "zeros"
    with pytest.raises(UserError, match="padding=mirror: must be one of zeros, reflect"):
        gtcrn.load(references / PUBLISHED["gtcrn_dns3"], padding="mirror")
    with pytest.raises(UserError, match="padding=reflect mirrors 256 samples"):
        gtcrn.load(references / PUBLISHED["gtcrn_dns3"], padding="reflect")(torch.zeros(1, 256))
