"""task=export as a user runs it: it writes a proved file, or fails with one line and writes nothing."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections import Counter
from errno import ENOSPC
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from fixtures.commands import compose, run_command

from gtcrn.errors import Interrupted, Terminated, UserError
from gtcrn.export import exporting
from gtcrn.export.exporting import Export, Exported
from gtcrn.export.formats import FORMATS
from gtcrn.export.metadata import Weights
from gtcrn.export.proof import Proof, Recording
from gtcrn.export.writers import onnx
from gtcrn.models import dtln, light_v3, micro
from gtcrn.models.pretrained import load
from gtcrn.quantization import checkpoint
from gtcrn.runtime.bare_metal.emulation import require_tools
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.runtime.facts import Integers, ModelFacts, Signal
from gtcrn.tasks import enhance, evaluate
from gtcrn.tasks.export import destination, run, show

TINY = dict(channels=4, stacks=1, blocks=1, erb_low_bins=9, erb_bands=8, n_fft=64, hop_length=32)
SIZES = dict(lstm_size=8, layers=1, basis_size=12, n_fft=64, hop_length=16)


def save(path, build, **knobs):
    """Write a checkpoint of this framework with random weights."""
    torch.manual_seed(0)
    weights = {f"enhancer.core.{key}": value for key, value in build(**knobs).core.state_dict().items()}
    record = {"model": {"build": f"{build.__module__}.build", "knobs": knobs}}
    torch.save({"gtcrn": record, "state_dict": weights}, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of checkpoints, and of good and bad recordings."""
    folder = tmp_path_factory.mktemp("export")
    save(folder / "dtln.ckpt", dtln.build, **SIZES)
    save(folder / "ahead.ckpt", light_v3.build, causal=False)
    save(folder / "micro.ckpt", micro.build, **TINY)
    (folder / "empty").mkdir()
    (folder / "heard").mkdir()
    soundfile.write(folder / "heard" / "long.wav", np.random.default_rng(1).normal(0, 0.1, 11 * 16000), 16000)
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    soundfile.write(folder / "silence.wav", np.zeros(16000), 16000)
    (folder / "file").touch()
    return folder


@pytest.mark.slow
def test_a_file_and_its_card(folder):
    told = ("licence=CC0", "origin=made up", "name=mine", "output=out")
    done = run_command(folder, "task=export", "ckpt=dtln.ckpt", "format=onnx_wave", "audio=noise.wav", *told)
    assert done.returncode == 0 and done.stderr == ""
    for line in (
        "1/3 writing mine_wave.onnx",
        "2/3 running it in onnxruntime over 1.0 s of noise.wav",
        "out/mine_wave.onnx",
        "size ",
        "largest difference ",
        "CPU time for a hop ",
        "4 ms, a hop of 1 ms included",
    ):
        assert line in done.stdout
    assert sorted(os.listdir(folder / "out")) == ["mine_wave.onnx", "mine_wave.onnx.MODEL_CARD.md"]
    metadata = onnxruntime.InferenceSession(folder / "out" / "mine_wave.onnx").get_modelmeta().custom_metadata_map
    assert (metadata["licence"], metadata["origin"]) == ("CC0", "made up")
    assert "| CC0 |" in (folder / "out" / "mine_wave.onnx.MODEL_CARD.md").read_text()


@pytest.fixture
def reads(monkeypatch):
    """Return counts of how often each checkpoint was read: by torch, for its digest, and as bytes."""
    counts = Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def call(file, *args, **kwargs):
            path = Path(str(getattr(file, "name", file)))
            if path.suffix == ".ckpt":
                counts[name, path.name] += 1
            return original(file, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(torch, "load")
    counted(hashlib, "file_digest")
    counted(Path, "read_bytes")
    return counts


def read_once(name):
    return {("load", name): 1, ("file_digest", name): 1}


@pytest.mark.slow
def test_integers(folder, monkeypatch, caplog, reads):
    """The file runs, and the log and the card state how far it is from the float model."""
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(folder)
    keys = "ckpt=micro.ckpt format=litert quantize=int8 calibration=heard audio=noise.wav output=integers strict=true"
    keys += " device_files=true"
    with caplog.at_level("INFO"):
        run(compose("task=export", "run_dir=run", *keys.split()))
    assert reads == read_once("micro.ckpt")
    assert sorted(os.listdir("integers")) == [
        "micro_int8.tflite",
        "micro_int8.tflite.MODEL_CARD.md",
        "micro_int8_device",
    ]
    assert "gtcrn_model.c" in os.listdir("integers/micro_int8_device")
    told = caplog.text
    snr = float(re.search(r"output SNR +(\S+) dB against the float model", told)[1])
    assert 10 < snr < 60
    assert "100 % of the multiplications; 8-bit activations and weights" in told
    assert re.search(r"check +\d+ operators, each at most [01] step", told)
    words = Path("integers/micro_int8.tflite.MODEL_CARD.md").read_text()
    for part in (f"output SNR {snr:.1f} dB", "quantize=int8`", "operators to register | ", "CONV_2D ("):
        assert part in words
    names, hops = {}, np.random.default_rng(2).normal(0, 0.1, (40, 32)).astype(np.float32)
    monkeypatch.chdir("integers")
    exec(re.search(r"```python\n(.*?)```", words, re.DOTALL)[1], names)  # the card's program
    heard = np.concatenate([names["denoise"](hop) for hop in hops])
    np.testing.assert_allclose(Denoiser("micro_int8.tflite").process(hops.ravel()), heard, atol=0.02)


@pytest.mark.slow
def test_integers_in_c(folder, monkeypatch, caplog):
    """The folder is proved and described, and its program is that of the card."""
    if not shutil.which("cc"):
        pytest.skip("cc is missing, which compiles C")
    monkeypatch.chdir(folder)
    keys = "ckpt=micro.ckpt format=c quantize=int8 calibration=heard audio=noise.wav output=in_c name=denoise"
    with caplog.at_level("INFO"):
        run(compose("task=export", "run_dir=run", *keys.split()))
    assert sorted(os.listdir("in_c")) == ["denoise_int8_c", "denoise_int8_c.MODEL_CARD.md"]
    assert sorted(os.listdir("in_c/denoise_int8_c")) == ["denoise_int8.c", "denoise_int8.h", "metadata.json"]
    told = re.search(r"check +(mask codes of \d+ frames and the states after them equal the sim.*)", caplog.text)
    words = Path("in_c/denoise_int8_c.MODEL_CARD.md").read_text()
    assert told and told[1] in words and "The states" not in words
    program = re.search(r"```c\n(.*?)```", words, re.DOTALL)[1]
    command = ["cc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-I", "in_c/denoise_int8_c", "-x", "c", "-"]
    done = subprocess.run(command, input=program, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    names = {"samples": np.zeros(320, np.float32)}
    monkeypatch.chdir("in_c")
    exec(re.search(r"```python\n(.*?)```", words, re.DOTALL)[1], names)
    assert len(names["enhanced"]) == 320


def test_learnt_integers_in_c(folder, learnt, monkeypatch, caplog):
    if not shutil.which("cc"):
        pytest.skip("cc is missing, which compiles C")
    monkeypatch.chdir(folder)
    keys = f"ckpt={learnt} format=c quantize=int8 audio=noise.wav output=learnt_in_c name=learnt"
    with caplog.at_level("INFO"):
        run(compose("task=export", "run_dir=run", *keys.split()))
    assert "the states after them equal the simulated ones to the bit" in caplog.text
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(UserError, match="no-such-cc: no such C compiler, which format=c needs; install gcc or clang"):
        run(compose("task=export", "run_dir=run", *keys.split()))


def test_a_file_over_its_budget_is_not_written(folder, learnt, monkeypatch):
    if not shutil.which("cc"):
        pytest.skip("cc is missing, which compiles C")
    try:
        require_tools("m7")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(folder)
    keys = f"ckpt={learnt} format=c quantize=int8 audio=noise.wav output=over_budget flash_kib=1 core=m7"
    with pytest.raises(UserError, match="nothing was written: flash_kib=1: it takes .* on m7"):
        run(compose("task=export", "run_dir=run", *keys.split()))
    assert not os.path.exists("over_budget") or not os.listdir("over_budget")


def stating(kind, integers):
    return ModelFacts("", Signal(kind, 16000, 512, 256, 256), {}, "MIT", "", "", integers)


@pytest.mark.parametrize(("snr", "advice"), [(8.4, True), (24.0, False)])
def test_integers_that_are_far_off_are_no_secret(caplog, snr, advice):
    facts = stating("bands", Integers("int8", share=1.0, snr=snr))
    with caplog.at_level("INFO"):
        show(Exported(Path("x"), 1, facts, Proof(0.1, 9, 1, 1, snr), Path("card")))
    assert f"{snr} dB against the float model" in caplog.text
    assert ("calibrate with noisy speech as the device will hear it" in caplog.text) == advice
    assert ("or training=qat" in caplog.text) == advice


def test_what_is_advised_can_be_had(caplog):
    """training=qat is advised for GTCRN-Micro alone."""
    facts = stating("wave", Integers("int8", share=0.25, snr=8.0, left={"GRU": "no kernel"}))
    show(Exported(Path("x"), 1, facts, Proof(0.1, 9, 1, 1, 8.0), Path("card")))
    assert "quantize=dynamic" in caplog.text and "qat" not in caplog.text
    assert "75 % of the multiplications are left in float (GRU: no kernel)" in caplog.text


@pytest.fixture(scope="module")
def learnt(folder):
    """Return a checkpoint as training=qat writes it, with ranges that no calibration would choose."""
    save(folder / "qat.ckpt", micro.build, **TINY)
    content = torch.load(folder / "qat.ckpt")
    content["gtcrn"][checkpoint.INTEGERS] = {"bits": 8, "rho": 16}
    network = checkpoint.new_network(load(folder / "qat.ckpt").core, 8, 16)
    for name in network.program.owners():
        if name not in network.fixed:
            network.set_range(name, -1.0, 2.0)
    network.set_range("bands", -12.75, 12.75)
    content["state_dict"] |= {f"{checkpoint.PREFIX}{name}": value for name, value in network.state_dict().items()}
    torch.save(content, folder / "qat.ckpt")
    return "qat.ckpt"


def export_in(folder, *keys):
    run(compose("task=export", "run_dir=run", "format=litert", "audio=noise.wav", *keys))


def test_learnt_integers_need_no_calibration(folder, learnt, monkeypatch, reads):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.chdir(folder)
    export_in(folder, f"ckpt={learnt}", "quantize=int8", "output=learnt")
    assert reads == read_once(learnt)
    with zipfile.ZipFile("learnt/micro_int8.tflite") as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["residual_gain"] == "16"
    assert json.loads(metadata["quantization"])["input"] == [pytest.approx(0.1), 0]
    with pytest.raises(UserError, match="calibration=heard: ckpt=qat.ckpt has learnt its ranges; leave it out"):
        export_in(folder, f"ckpt={learnt}", "quantize=int8", "calibration=heard")
    with pytest.raises(UserError, match="quantize=int16x8 needs calibration=FOLDER"):
        export_in(folder, f"ckpt={learnt}", "quantize=int16x8")


def test_the_float_model_of_learnt_integers_is_not_taken_for_them(folder, learnt, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Export, "write", lambda *_: (_ for _ in ()).throw(UserError("far enough")))
    with pytest.raises(UserError, match="far enough"):
        export_in(folder, f"ckpt={learnt}")
    assert "ckpt=qat.ckpt holds integers, see format=litert quantize=int8; this is of its float" in caplog.text


def test_learnt_integers_are_scored_but_not_streamed_in_pytorch(folder, learnt, recordings, monkeypatch, reads):
    monkeypatch.chdir(folder)
    scored = []
    monkeypatch.setattr(evaluate, "evaluate_split", lambda enhancer, *_, **__: scored.append(enhancer))
    mini = recordings / "vctk_demand_mini"
    keys = ["data=vctk_demand", f"data.root={mini}", "data.validation_files=[p287_005]", "data.test=validation"]
    evaluate.run(compose("task=evaluate", "run_dir=run", f"ckpt={learnt}", *keys))
    assert isinstance(scored[0].core, checkpoint.Simulation) and reads == read_once(learnt)
    with pytest.raises(UserError, match="ckpt=qat.ckpt: holds integers, which run from a file: task=export"):
        enhance.run(compose("task=enhance", "run_dir=run", f"ckpt={learnt}", "input=noise.wav", "output=x"))


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_leaves_no_file(folder, tmp_path, monkeypatch, stop, code):
    """The test interrupts at a fixed place, because a signal to an exporting process could arrive in any code."""

    def write(graph, path, metadata):
        path.write_text("half of it")
        raise stop

    monkeypatch.setattr(onnx, "write", write)
    monkeypatch.chdir(folder)
    with pytest.raises(Interrupted, match="^interrupted; nothing was written$") as told:
        export_in(folder, "ckpt=dtln.ckpt", "format=onnx_wave", f"output={tmp_path}")
    assert told.value.code == code and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGINT, "interrupted; nothing was written"), (signal.SIGKILL, "crashed on it, or was ended from outside")],
)
def test_the_process_of_the_proof_ends_the_export(folder, tmp_path, monkeypatch, number, told):
    """It hangs in the runtime. Ctrl-C goes to the exporting process, SIGKILL to the one that hangs."""
    begun, output, stopped = tmp_path / "begun", tmp_path / "output", []
    (tmp_path / "hanging.py").write_text(
        "import os, pathlib, time\n"
        "def run(path):\n"
        f"    pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(100)\n"
    )

    def stop():
        while not (begun.is_file() and begun.read_text()):
            time.sleep(0.05)
        stopped.append(time.monotonic())
        os.kill(os.getpid() if number == signal.SIGINT else int(begun.read_text()), number)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(FORMATS, "onnx_wave", FORMATS["onnx_wave"]._replace(runner="hanging:run"))
    monkeypatch.chdir(folder)
    threading.Thread(target=stop, daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where Ctrl-C is ignored
    try:
        with pytest.raises(UserError, match=told):
            export_in(folder, "ckpt=dtln.ckpt", "format=onnx_wave", f"output={output}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - stopped[0] < 60 and list(output.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ("ckpt=dtln.ckpt format=onnx", "ckpt=dtln.ckpt: format=onnx: is for models of spectra, and DTLN takes samples"),
        ("ckpt=ahead.ckpt format=onnx", "ckpt=ahead.ckpt: this model cannot stream: layer 'core.encoder.2.ds' looks 1"),
        ("ckpt=dtln.ckpt format=tensorrt", "format=tensorrt: must be one of onnx, onnx_wave, sherpa_onnx,"),
        ("ckpt=noise.wav", "checkpoint noise.wav: a WAV file"),
        ("ckpt=dtln.ckpt format=onnx_wave audio=silence.wav", "audio=silence.wav: silent"),
        ("ckpt=dtln.ckpt format=onnx_wave audio=noise.wav output=file", "output=file: can't be written to"),
        (
            "ckpt=dtln.ckpt format=onnx_wave audio=noise.wav output=a.tflite",
            "output=a.tflite: files of format=onnx_wave ",
        ),
        (
            "ckpt=dtln.ckpt format=onnx_wave audio=noise.wav name=a output=b.onnx",
            "name=a: output=b.onnx names the file",
        ),
        ("ckpt=dtln.ckpt format=onnx_wave audio=noise.wav name=a/b", "name=a/b: a file's name, without folders"),
        ("ckpt=micro.ckpt format=litert quantize=int4", "quantize=int4: must be one of int8, dynamic, "),
        (
            "ckpt=micro.ckpt format=pt2 quantize=int8",
            "quantize=int8: format=pt2 has floats alone; use one of format=on",
        ),
        ("ckpt=micro.ckpt format=onnx quantize=int16x8", "format=onnx has int8, dynamic; int16x8 is for format=litert"),
        ("ckpt=micro.ckpt format=litert quantize=int8", "quantize=int8 needs calibration=FOLDER, noisy recordings"),
        ("ckpt=dtln.ckpt format=onnx_wave quantize=int8", "quantize=int8 needs calibration=FOLDER, noisy recordings"),
        (
            "ckpt=micro.ckpt format=onnx quantize=dynamic calibration=heard",
            "calibration=heard: the ranges of quantize=",
        ),
        ("ckpt=dtln.ckpt format=litert quantize=int8 device_files=true", "device_files=true: is for GTCRN-Micro, form"),
        ("ckpt=micro.ckpt format=c", "ckpt=micro.ckpt: format=c: is of integers alone; add quantize=int8"),
        ("ckpt=micro.ckpt format=c quantize=mixed", "quantize=mixed: format=c has int8; mixed is for format=litert"),
        (
            "ckpt=micro.ckpt format=c quantize=int8 audio=noise.wav",
            "quantize=int8 needs calibration=FOLDER, noisy reco",
        ),
        (
            "ckpt=dtln.ckpt format=c quantize=int8 calibration=heard",
            "DTLN has no form in integers, since its recurrent",
        ),
        (
            "ckpt=ahead.ckpt format=c quantize=int8 calibration=heard",
            "ckpt=ahead.ckpt: this model cannot stream: layer",
        ),
        (
            "ckpt=micro.ckpt format=c quantize=int8 calibration=heard audio=noise.wav name=my-model",
            "name=my-model: is no C identifier, with which the names of functions begin",
        ),
        (
            "ckpt=micro.ckpt format=c quantize=int8 calibration=heard audio=noise.wav device_files=true",
            "device_files=true: is for GTCRN-Micro, format=litert",
        ),
        ("ckpt=micro.ckpt flash_kib=64", "flash_kib=64: is of format=c; leave it out"),
        ("ckpt=micro.ckpt format=litert calibration=heard", "calibration=heard: is of integers; add quantize="),
        ("ckpt=micro.ckpt format=litert strict=true", "strict=True: is of integers; add quantize="),
        ("ckpt=micro.ckpt format=litert quantize=int8 audio=noise.wav calibration=nowhere", "nowhere: no such folder"),
        ("ckpt=micro.ckpt format=litert quantize=int8 audio=noise.wav calibration=empty", "empty: no audio files"),
        ("ckpt=micro.ckpt format=litert quantize=int8 audio=noise.wav calibration=noise.wav", "1.0 s of sound, and at"),
        (
            "ckpt=micro.ckpt format=litert quantize=int8 audio=noise.wav calibration=silence.wav",
            "0.0 s of sound, and at",
        ),
    ],
)
def test_mistakes_are_told_in_a_line_before_the_work(folder, monkeypatch, overrides, complaint):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(onnx, "write", None)  # the work
    cfg = compose("task=export", "run_dir=run", *overrides.split())
    with pytest.raises(UserError, match=re.escape(complaint)) as told:
        run(cfg)
    assert "\n" not in str(told.value)


def export(folder):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    enhancer = dtln.build(**SIZES).eval()
    return Export(enhancer, "onnx_wave", "wave", "x", Weights("", ""), Recording(noise, "noise")).write(folder)


@pytest.mark.parametrize(
    ("failure", "complaint"),
    [(OSError(ENOSPC, "No space left on device"), "No space left"), (UserError("the graph holds If"), "holds If")],
)
def test_failures_leave_what_was_there(tmp_path, monkeypatch, failure, complaint):
    def write(graph, path, metadata):
        path.write_text("half of it")
        raise failure

    monkeypatch.setattr(onnx, "write", write)
    (tmp_path / "x_wave.onnx").write_text("an earlier export")
    with pytest.raises(UserError, match=complaint):
        export(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier export"]


@pytest.mark.slow
def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    def spoilt(enhancer, recurrence):
        enhancer = optimized(enhancer, recurrence)
        for parameter in enhancer.parameters():
            parameter.mul_(1.01)
        return enhancer

    optimized = exporting.optimized
    monkeypatch.setattr(exporting, "optimized", spoilt)
    with pytest.raises(UserError, match="format=onnx_wave: nothing was written, since the file is wrong: it differs"):
        export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_case_of_a_suffix_does_not_make_a_file_a_folder(command):
    cfg = command("task=export", "ckpt=x.ckpt", "output=models/MINE.ONNX", "format=onnx")
    assert destination(cfg) == (Path("models"), "MINE.ONNX")


@pytest.mark.parametrize(("format", "file"), [("onnx", "a.onnx"), ("litert", "a.tflite"), ("pt2", "a.pt2")])
def test_output_names_a_file_of_formats_whose_suffix_is_an_ending_alone(command, format, file):
    assert destination(command("task=export", "ckpt=x.ckpt", f"output=b/{file}", f"format={format}")) == (
        Path("b"),
        file,
    )
