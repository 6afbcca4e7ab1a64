"""task=profile: the tables that it prints and the files that it writes."""

import json
import shutil
from functools import partial
from math import ceil
from typing import get_args

import pandas as pd
import pytest
import soundfile
import torch
from fixtures.commands import CONF, compose
from fixtures.integers import tiny

from gtcrn.errors import Interrupted, UserError
from gtcrn.export.c.writer import IntegerGraph
from gtcrn.export.c.writer import write as write_c
from gtcrn.export.metadata import Weights, describe
from gtcrn.profiling import cost
from gtcrn.profiling.latency import noise as latency_noise
from gtcrn.profiling.throughput import LoaderThroughput, TableCost, Throughput
from gtcrn.quantization.calibration import quantize_enhancer
from gtcrn.runtime.bare_metal import emulation
from gtcrn.runtime.bare_metal.emulation import require_tools
from gtcrn.tasks import profile
from gtcrn.tasks.building import build
from gtcrn.tasks.keys import Core

# trainable and all parameters, exact and thop MMACs/s
COSTS = {
    "gtcrn": (23_669, 48_245, 26.596, 34.077),
    "light_v3_offline": (7_640, 7_640, 17.029, 16.680),
    "light_v3_one_dpgrnn": (5_540, 5_540, 12.875, 11.597),
    "light_v3": (7_640, 7_640, 17.029, 16.680),
    "micro": (19_014, 43_590, 39.169, 49.212),
    "micro_int8": (12_207, 36_783, 27.158, 33.267),
    "ulunas": (146_752, 171_328, 27.609, 36.120),
    "dtln": (988_801, 988_801, 123.944, 124.976),
    "dtln_norm": (989_315, 989_315, 123.944, 124.976),
    "dtln_32k": (2_103_937, 2_103_937, 264.322, 265.354),
    "fastenhancer_t": (22_451, 22_451, 60.319, 65.246),
    "fastenhancer_b": (93_087, 93_087, 263.620, 267.557),
    "fastenhancer_s": (196_819, 196_819, 669.215, 661.510),
}
TIMBRE = {"timbre": 8_929_987, "timbre_balanced": 5_026_323, "timbre_light": 380_011}  # tens of GMACs: not run here
LARGE = [f"fastenhancer_{size}" for size in ("m", "l", "48k_t", "48k_b", "48k_s", "48k_m")]  # nor these GMACs
WITHOUT_COSTLY = [f"~model.rows.{name}" for name in (*TIMBRE, *LARGE)]


composed = partial(compose, "task=profile")


@pytest.fixture
def profiled(perform):
    return partial(perform, "task=profile")


@pytest.fixture
def measured(monkeypatch):
    """Replace measurements of this machine's time and memory by constants."""
    alone = Throughput(items_per_second=25.0, real_time=100.0, decoding=0.25, mixing=0.5, over_decoding=4.0)
    table = TableCost(
        1_000_000, 2.5, {"rss": 501.0, "pss": 400.0, "uss": 300.0}, {"rss": 99.0, "pss": 50.0, "uss": 20.0}
    )
    monkeypatch.setattr(profile, "measure_throughput", lambda dataset, sample_rate: alone)
    monkeypatch.setattr(profile, "measure_loader", lambda data: LoaderThroughput(0.5, 50.0, 200.0))
    monkeypatch.setattr(profile, "measure_table", lambda rows: table)


@pytest.fixture
def corpora(recordings, tmp_path):
    mini = recordings / "dns_mini"
    places = {"speech": mini / "extra_clean", "noise": mini / "noise", "rir": mini / "rir", "cache_dir": tmp_path}
    return [
        "profile=data",
        "data=dns",
        "data.held_out_by=file",
        f"run_dir={tmp_path / 'out'}",
        *(f"data.{key}={place}" for key, place in places.items()),
    ]


@pytest.fixture
def untimed(monkeypatch):
    monkeypatch.setattr(cost, "time_per_hop", lambda enhancer: 4.0)


def lines_of(screen: str) -> dict[str, list[str]]:
    """Return {quantity: [value, target]} of a printed table."""
    rows = (line.strip().split("  ") for line in screen.splitlines())
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def test_values_stand_beside_their_targets(profiled, corpora, measured, tmp_path, capsys):
    profiled(*corpora)
    lines = lines_of(capsys.readouterr().out)
    assert lines["one process: × real time"] == ["100", "≥ 150, missed"]
    assert lines["of the time, mixing"] == ["50 %"]
    assert lines["loader with num_workers=2: × real time"] == ["200"]
    assert lines["from its path to the first item"] == ["2.50 s", "≤ 3, met"]
    assert lines["memory of the training process, MB"] == ["501 / 400 / 300", "≤ 500, missed"]
    assert lines["memory of a loader worker, MB"] == ["99 / 50 / 20", "≤ 500, met"]
    written = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert written["process"]["real_time"] == 100 and written["table"]["main"]["rss"] == 501
    assert written["loader"]["first_batch"] == 0.5 and written["setup_seconds"] > 0


def test_there_is_no_target_for_other_crops(profiled, corpora, measured, capsys):
    profiled(*corpora, "data.segment_seconds=1")
    assert lines_of(capsys.readouterr().out)["one process: × real time"] == ["100"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.manifest_rows=10", "profile.manifest_rows=10: must be a whole number of at least 1000"),
    ],
)
def test_mistakes_are_named(profiled, corpora, override, message):
    with pytest.raises(UserError, match=message):
        profiled(*corpora, override)


def test_the_table_of_all_models(profiled, untimed, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    half = "+model.rows.half.overrides='model=light_v3 model.width_mult=0.5'"
    profiled("model=all", f"run_dir={tmp_path}", *WITHOUT_COSTLY, half)
    written = json.loads((tmp_path / "profile.json").read_text())
    assert list(written) == [*COSTS, "half"]
    for name, (trainable, everything, exact, thop) in COSTS.items():
        row = written[name]
        assert (row["parameters_trainable"], row["parameters_all"]) == (trainable, everything)
        assert row["macs_exact"] / 1e6 == pytest.approx(exact, abs=5e-4)
        assert row["macs_thop"] / 1e6 == pytest.approx(thop, abs=5e-4)
    assert written["half"]["macs_exact"] < written["light_v3"]["macs_exact"]
    screen = capsys.readouterr().out
    assert max(map(len, screen.splitlines())) <= 120 and "…" not in screen
    lines = lines_of(screen)
    assert lines["light_v3_offline"] == ["16.0", "384.0", "352", *"–––––"]
    assert "by every count GTCRN-Micro has more MACs than GTCRN" in " ".join(screen.split())
    assert "3.5 M" not in screen, "there is no row of timbre"
    places = [record.getMessage() for record in caplog.records[-4:]]
    files = ("complexity.md", "complexity.csv", "complexity.png", "profile.json")
    assert places == [f"written: {tmp_path / name}" for name in files]
    assert all((tmp_path / name).stat().st_size > 1000 for name in files)


def folded_cost(model):
    """Return the parameters of a model as it is folded for inference, and its exact MACs per second."""
    enhancer = build(composed(model, "model.weight_norm=false", "model.batch_norm=false").model).eval()
    frame = enhancer.core_input(torch.zeros(1, enhancer.sample_rate))[:, :, :1]
    macs = sum(cost.count_macs(enhancer.core, frame).values())
    return sum(p.numel() for p in enhancer.parameters()), macs * enhancer.sample_rate / enhancer.hop_length


def test_published_figures_are_ours_or_explained():
    """Published figures equal the counted ones in their authors' rounding, or the note says why not."""
    rows = composed("model=all").model.rows
    published = {name: (row.get("published_parameters"), row.get("published_macs")) for name, row in rows.items()}
    trainable, everything, _, _ = COSTS["gtcrn"]
    assert published.pop("gtcrn") == (f"{trainable / 1e3:.2f} K / {everything / 1e3:.1f} K", "33.0 M")
    assert "ptflops 0.7 alone" in rows.gtcrn.note
    trainable, _, _, thop = COSTS["light_v3_offline"]
    assert published.pop("light_v3_offline") == (f"{trainable / 1e6:.3f} M", f"{thop / 1e3:.3f} G")
    assert published.pop("micro") == (f"{COSTS['micro'][0] / 1e3:.2f} K", "45.92 M")
    assert "ptflops 0.7.5" in rows.micro.note and "more MACs than GTCRN" in rows.micro.note
    assert published.pop("ulunas") == (f"{COSTS['ulunas'][1] // 1000} K", "35 M")
    assert f"{COSTS['ulunas'][1]:,}" in rows.ulunas.note and f"{COSTS['ulunas'][3]:.3f} M" in rows.ulunas.note
    assert published.pop("dtln") == ("< 1 M", None) and COSTS["dtln"][0] < 1e6
    parameters, macs = zip(*(folded_cost(f"model=fastenhancer_{size}") for size in "tbsml"))
    one_block = 62.5 * (16 * 11 * 20**2 + 2 * 16**2 * 20)  # of T: GRU, linear layers and attention
    counted = [f"{(macs[0] - one_block) / 1e6:.0f} M", *(f"{ceil(count / 1e6)} M" for count in macs[1:3])]
    counted += [f"{macs[3] / 1e9:.1f} G", f"{macs[4] // 1e9:.0f} G"]
    for size, count, figure in zip("tbsml", parameters, counted):
        assert published.pop(f"fastenhancer_{size}") == (f"{ceil(count / 1e3)} K", figure)
    assert published.pop("timbre") == ("3.5 M", None) and "README" in rows.timbre.note
    assert set(published.values()) == {(None, None)}


def test_every_model_has_a_row():
    rows = composed("model=all").model.rows
    parameters = {name: sum(p.numel() for p in build(composed(f"model={name}").model).parameters()) for name in TIMBRE}
    plain = build(composed("model=timbre", "model.weight_norm=false").model)
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} - {"all"} <= set(rows)
    assert [name for name in rows if name not in LARGE] == [*COSTS, *TIMBRE] and parameters == TIMBRE
    assert TIMBRE["timbre"] - sum(p.numel() for p in plain.parameters()) == 4_993 and "4,993" in rows.timbre.note


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ckpt=best.ckpt"], "ckpt=best.ckpt: model=all measures models without weights"),
        (["profile=data"], "model=all is for profile=model and profile=training: name one model, e.g. model=light_v3"),
        (["streaming=offline"], "model.causal: there is no such key; there are rows"),
        (["+model.rows.mine.overrides='model=nope'"], "model.rows.mine: In 'config': Could not find 'model/nope'"),
        (["+model.rows.mine.overrides='model.widht=1'"], "model.rows.mine: Could not override 'model.widht'"),
        (["+model.rows.mine.overrides='loss=mag'"], "model.rows.mine: loss=mag: only model and streaming can be"),
        (["+model.rows.mine=light_v3"], "model.rows.mine: needs overrides, and may have note"),
        (["+model.rows.mine={overrides:'model=gtcrn',x:1}"], "model.rows.mine: needs overrides, and may have note"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_the_table_of_all_models_are_named(profiled, untimed, tmp_path, overrides, message):
    no_others = [f"~model.rows.{name}" for name in (*COSTS, *TIMBRE, *LARGE)]
    with pytest.raises(UserError) as error:
        profiled("model=all", f"run_dir={tmp_path}", *no_others, *overrides)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_one_model(profiled, untimed, tmp_path, capsys):
    profiled("model=gtcrn", f"run_dir={tmp_path}")
    lines = lines_of(capsys.readouterr().out)
    assert lines["MMACs/s, exact (63 frames)"] == ["26.596"]
    assert lines["state of one stream, KiB"] == ["72.5"]
    assert lines["activations of one hop, all of them, KiB"] == ["61.4"]
    assert lines["activations of one hop, in use at one time, KiB"] == ["14.4"]
    assert json.loads((tmp_path / "profile.json").read_text())["peak_bytes"] == 14_720


def test_what_cannot_stream_has_no_lines_of_a_stream(profiled, tmp_path, capsys):
    profiled("model=light_v3", "streaming=offline", f"run_dir={tmp_path}")
    screen = capsys.readouterr().out
    assert lines_of(screen)["look-ahead of the network"] == ["352.0"]
    assert "nan" not in screen and "state of one stream" not in screen


@pytest.fixture
def latency(references, tmp_path):
    file = references / "gtcrn" / "gtcrn_simple.onnx"
    return ["profile=latency", f"profile.files={file}", f"run_dir={tmp_path / 'out'}", "profile.seconds=0.5"]


@pytest.mark.slow
def test_latency(profiled, latency, references, recordings, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    pairs = tmp_path / "pairs"
    for role in ("noisy", "clean"):
        (pairs / role).mkdir(parents=True)
        name = f"{role}/p287_002.wav"
        (pairs / name).symlink_to(recordings / "vctk_demand_mini" / name)
    parts = ",".join(str(references / "dtln" / f"model_{number}.onnx") for number in (1, 2))
    overrides = [f"profile.reference=[{parts}]", f"profile.pairs={pairs}"]
    overrides.append(f"ckpt={references / 'gtcrn' / 'dns3_epoch96.tar'}")
    profiled(*latency, *overrides, "metrics.workers=1")
    screen = capsys.readouterr().out
    assert max(map(len, screen.splitlines())) <= 120
    assert "process(), × faster than model_1.onnx + model_2.onnx" in screen and "0.5 s of audio each" in screen
    places = [record.getMessage() for record in caplog.records[-4:]]
    files = [tmp_path / "out" / f"latency.{suffix}" for suffix in ("md", "csv", "png", "json")]
    assert places == [f"written: {file}" for file in files] and all(file.stat().st_size > 500 for file in files)
    written = json.loads(files[-1].read_text())
    assert [(row["name"], row["call"]) for row in written["timings"]] == [
        ("model_1.onnx + model_2.onnx", "process()"),
        ("PyTorch, eager", "process()"),
        ("gtcrn_simple.onnx", "process()"),
        ("gtcrn_simple.onnx", "run()"),
        ("gtcrn_simple.onnx", "binding"),
    ]
    assert written["timings"][0]["times_faster"] == 1 and written["timings"][1]["file_bytes"] is None
    assert list(written["scores"]) == ["noisy", "model_1.onnx + model_2.onnx", "PyTorch, eager", "gtcrn_simple.onnx"]
    assert written["scores"]["gtcrn_simple.onnx"]["max_error"] < 1e-5


def test_ctrl_c_writes_nothing(profiled, latency, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(profile.latency, "measure", interrupted)
    with pytest.raises(Interrupted, match="interrupted: nothing is written"):
        profiled(*latency)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.files=[]", "profile=latency needs profile.files=…: exported files or a folder of them"),
        ("profile.files=nowhere.onnx", "nowhere.onnx: no such file"),
        ("profile.reference=nowhere.onnx", "nowhere.onnx: no such file"),
        ("ckpt=nowhere.tar", "checkpoint nowhere.tar: no such file"),
        ("profile.pairs=nowhere", "nowhere/noisy: unreadable folder: No such file"),
        ("profile.seconds=0", "profile.seconds=0: must be a number above 0"),
        ("profile.seconds=long", "profile.seconds=long: must be a number above 0"),
        ("profile.files=3", "profile.files=3: must be text or a list of text or null; as text: 'profile."),
    ],
)
def test_mistakes_about_latency_are_named(profiled, latency, override, message):
    with pytest.raises(UserError) as error:
        profiled(*latency, override)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def quantization(references, recordings, tmp_path):
    """Return overrides for the published Micro and one short recording."""
    noisy, clean = (tmp_path / "pairs" / role / "one.wav" for role in ("noisy", "clean"))
    for path in (noisy, clean):
        path.parent.mkdir(parents=True)
        wave, rate = soundfile.read(recordings / "vctk_demand_mini" / path.parent.name / "p287_002.wav")
        soundfile.write(path, wave[: 2 * rate], rate)
    keys = [
        "profile=quantization",
        f"ckpt={references / 'micro' / 'best_model_dns3.tar'}",
        f"profile.pairs={tmp_path / 'pairs'}",
    ]
    return [*keys, f"run_dir={tmp_path / 'out'}", "metrics.workers=1"]


@pytest.mark.slow
def test_quantization(profiled, quantization, recordings, tmp_path, capsys):
    for package in ("ai_edge_litert", "onnxscript"):
        pytest.importorskip(package)
    calibration = f"profile.calibration={recordings / 'vctk_demand_mini' / 'noisy'}"
    profiled(*quantization, calibration, "profile.quantize=[int8,onnx:int8]")
    screen = capsys.readouterr().out
    assert max(map(len, screen.splitlines())) <= 120
    written = json.loads((tmp_path / "out" / "profile.json").read_text())
    summary = written["summary"]
    assert list(summary) == ["float", "int8", "onnx:float", "onnx:int8"]
    assert summary["onnx:float"]["snr"] > 80 and 10 < summary["onnx:int8"]["snr"] < 60
    assert [summary[name]["integer_macs"] for name in ("int8", "onnx:float")] == [1, 0]
    assert 0.3 < summary["onnx:int8"]["integer_macs"] < 1
    assert {row["file"] for row in written["left"].values()} == {"onnx:int8"}
    text = (tmp_path / "out" / "quantization.md").read_text()
    for title in ("left in float", "one tensor alone, the worst first", "inside, the worst first"):
        assert f"## {title}" in text
    for name in ("model_int8.tflite", "model.onnx", "model_int8.onnx", "quantization.md", "quantization.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ckpt=null", "profile=quantization needs ckpt=…: the float model"),
        ("profile.pairs=null", "profile=quantization needs profile.pairs=…: a folder with noisy/ and clean/"),
        ("profile.quantize=[int8]", "profile=quantization needs profile.calibration=FOLDER, noisy recordings as the"),
        ("profile.quantize=[int4]", "quantize=int4: must be one of int8, "),
        ("profile.quantize=[ncnn:int8]", "quantize=int8: format=ncnn has floats alone"),
        ("profile.quantize=[]", "needs something to compare: profile.quantize=, profile.trained= or profile.files="),
        ("profile.files=model.pt2", "model.pt2: integers are of .tflite and .onnx files"),
    ],
)
def test_mistakes_about_quantization_are_named(profiled, quantization, override, message):
    with pytest.raises(UserError) as error:
        profiled(*quantization, "profile.quantize=[]", override)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def settings(monkeypatch):
    """Return a dict that gets the settings that would be measured, and what else would be."""
    asked = {}

    def measure(settings, *others):
        asked["settings"], asked["others"] = settings, others
        raise KeyboardInterrupt

    monkeypatch.setattr(profile.training, "measure", measure)
    return asked


def test_speed_of_training_in_every_setting(profiled, settings, tmp_path):
    lists = ["profile.batch=[8,2]", "profile.seconds=[4]", "profile.threads=[1,2]", "profile.width=[1,1.5]"]
    with pytest.raises(Interrupted, match="interrupted: nothing is written; a smaller profile.rounds="):
        profiled("profile=training", "model=gtcrn", "loss=hybrid", "profile.forms=[numba,plain,numba]", *lists)
    found = {
        tuple(vars(key).values()): make().core.encoder[0].bn.num_features for key, make in settings["settings"].items()
    }
    base = {("gtcrn", 1, 1, 8, 4): 16, ("gtcrn", 1, 2, 8, 4): 16, ("gtcrn", 1, 1, 2, 4): 16}
    assert found == base | {("gtcrn", 1.5, 1, 8, 4): 24} and next(iter(found)) == ("gtcrn", 1, 1, 8, 4)
    forms, loss, optimizer, rounds = settings["others"]
    assert forms == ["numba", "plain"] and rounds == 5 and set(loss.terms) == {"complex", "magnitude", "sisdr"}
    assert optimizer.func.__name__ == "AdamW" and not list((tmp_path / "out").iterdir())


def test_speed_of_training_of_several_models(profiled, settings):
    with pytest.raises(Interrupted):
        profiled("profile=training", "model=all", "profile.rows=[light_v3,dtln]")
    assert {key.model for key in settings["settings"]} == {"light_v3", "dtln"}
    widths = {name: [key.width for key in settings["settings"] if key.model == name] for name in ("light_v3", "dtln")}
    assert set(widths["light_v3"]) == {1, 0.5, 2}
    assert set(widths["dtln"]) == {1}, "it has no key for its width"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.forms=[cuda]", 'profile.forms=["cuda"]: must be a list of one of plain, torch, numba'),
        ("profile.forms=[]", "profile.forms=[]: give at least one"),
        ("profile.rows=[]", "profile.rows=[]: give at least one"),
        ("profile.batch=8", "profile.batch=8: must be a list of whole numbers of at least 1"),
        ("profile.threads=[0]", "profile.threads=[0]: must be a list of whole numbers of at least 1"),
        ("profile.seconds=[0.01]", "profile.seconds=[0.01]: must be a list of numbers of at least 0.1"),
        ("profile.width=[0]", "profile.width=[0]: must be a list of numbers above 0"),
        ("profile.width=[0.1]", "model.width_mult=0.1: must lie between 0.5 and 8"),
        ("profile.rounds=0", "profile.rounds=0: must be a whole number of at least 1"),
        ("ckpt=best.ckpt", "ckpt=best.ckpt: profile=training needs no weights, only model=; leave it out"),
        ("profile.rows=[nope]", "profile.rows: nope is none of model=all's: gtcrn, light_v3_offline, "),
        ("loss.terms.sisdr.weight=-1", "sisdr"),
        ("~loss", "loss is missing: task=profile needs it"),
        ("optimizer.lr=0", "optimizer.lr=0: must be a number above 0"),
    ],
)
def test_mistakes_about_speed_of_training_are_named(profiled, settings, override, message):
    model = "model=all" if "rows" in override else "model=light_v3"
    with pytest.raises(UserError) as error:
        profiled("profile=training", model, override)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not settings


@pytest.fixture(scope="module")
def in_c(tmp_path_factory):
    """Return the folder of a small network in C."""
    enhancer = tiny()
    graph = IntegerGraph(quantize_enhancer(enhancer, "int8", [latency_noise(16000)]), enhancer.core)
    path = tmp_path_factory.mktemp("in_c") / "tiny_c"
    write_c(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


def test_cores(profiled, in_c, tmp_path, capsys):
    try:
        require_tools("m4f")
    except UserError as error:
        pytest.skip(str(error))
    files = f"profile.files=[{in_c},{in_c / 'tiny.c'}]"
    profiled("profile=mcu", files, "profile.cores=[m4f,m7]", "profile.clock_mhz.m7=400", f"run_dir={tmp_path}")
    first, second = json.loads((tmp_path / "profile.json").read_text())["rows"]
    assert (first["core"], second["core"], first["name"]) == ("m4f", "m7", "tiny.c")
    assert 10_000 < first["network_instructions"] < first["hop_instructions"] < 200_000
    assert first["ms"] == pytest.approx(first["hop_instructions"] / 200e3)
    assert second["ms"] == pytest.approx(second["hop_instructions"] / 400e3)
    assert 100 < first["stack_bytes"] < first["stack_int16_bytes"] < 2000
    assert first["ram_bytes"] == first["state_bytes"] + first["stack_int16_bytes"]
    assert first["flash_bytes"] == first["code_bytes"] + first["constants_bytes"]
    screen = capsys.readouterr().out
    assert f"{first['hop_instructions'] / 1e6:#.3g}" in screen
    assert f"{second['flash_bytes'] / 1024:.1f}" == lines_of(screen)["tiny.c"][-1]
    table = pd.read_csv(tmp_path / "mcu.csv")
    assert list(table["hop_instructions"]) == [row["hop_instructions"] for row in (first, second)]
    assert "Compiled with -O2." in (tmp_path / "mcu.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "profile=mcu needs profile.files=…: those of task=export format=c"),
        (["profile.files=[nowhere]"], "nowhere: a folder of task=export format=c is needed, with NAME.c, NAME.h and"),
        (["profile.files=[bare/x.c]"], "bare: a folder of task=export format=c is needed, with NAME.c, NAME.h and"),
        (["profile.files=[tiny_c/other.c]"], "tiny_c/other.c: is not the file of task=export format=c, which is tiny_"),
        (["profile.files=[spoilt_c]"], "spoilt_c: damaged, or changed since it was exported"),
        (["profile.files=[tiny_c]", "profile.cores=[m0]"], 'profile.cores=["m0"]: must be a list of one of m4f, m7'),
        (["profile.files=[tiny_c]", "profile.cores=[]"], "profile.cores=[]: give at least one"),
        (["profile.files=[tiny_c]", "~profile.clock_mhz.m7"], "profile.clock_mhz.m7: is missing, for the milliseconds"),
        (["profile.files=[tiny_c]", "profile.clock_mhz.m7=0"], "profile.clock_mhz.m7=0: must be a number above 0"),
    ],
)
def test_mistakes_about_cores_are_named(profiled, in_c, tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(in_c, "tiny_c")
    shutil.copytree(in_c, "spoilt_c")
    (tmp_path / "spoilt_c" / "tiny.c").write_text("int x;\n")
    (tmp_path / "bare").mkdir()
    shutil.copy(in_c / "tiny.c", "bare/x.c")
    with pytest.raises(UserError) as error:
        profiled("profile=mcu", *overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_core_can_be_named():
    assert set(get_args(Core)) == set(emulation.CORES)


def test_missing_tools_are_named_by_their_package(profiled, in_c, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="arm-none-eabi-gcc is missing, which m4f needs: install Debian's gcc-arm-none"):
        profiled("profile=mcu", f"profile.files=[{in_c}]")


def test_code_that_does_not_fit_the_board_is_told(profiled, in_c, monkeypatch):
    try:
        require_tools("m55")
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setitem(emulation.CORES, "m55", emulation.CORES["m55"]._replace(code_size="8K"))
    with pytest.raises(UserError, match="tiny.c: does not compile for m55 with -O2: .* overflowed by") as error:
        profiled("profile=mcu", f"profile.files=[{in_c}]", "profile.cores=[m55]")
    assert "\n" not in str(error.value)
