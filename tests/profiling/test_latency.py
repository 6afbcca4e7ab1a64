"""What is timed is what is told: whose time, in which order, without the warm-up, whatever else the machine does."""

import mmap
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper
from rich.console import Console

import gtcrn
from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.metrics import evaluate_pair
from gtcrn.models import light_v3
from gtcrn.profiling import latency, latency_report
from gtcrn.profiling.latency import Candidate, TimedCall, Timing, measure
from gtcrn.reports.streaming import enhance_in_chunks
from gtcrn.runtime.eager import open_stream
from gtcrn.runtime.framing import STFTStep, Stream
from gtcrn.runtime.runners import PlainRun, TwoFileDTLN, open_runner


def make(path: Path, sample_rate: int = 16000, spectral: bool = True) -> Path:
    """A file that passes its input through and has a state."""
    shape = (1, 257, 1, 2) if spectral else (1, 256)
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in zip(names, (shape, (1, 3)))]
        for names in (("x", "s"), ("y", "t"))
    ]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("x", "y"), ("s", "t"))]
    model = helper.make_model(helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    kind = {"kind": "spectrum", "n_fft": "512"} if spectral else {"kind": "wave", "n_fft": "256"}
    told = {"sample_rate": str(sample_rate), "hop_length": "256", "latency": "256" if spectral else "0"}
    helper.set_model_props(model, kind | told)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def clocks(monkeypatch):
    """Two clocks that steps move on, in seconds."""
    told = SimpleNamespace(wall=0.0, processor=0.0)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: told.wall)
    monkeypatch.setattr(latency.time, "process_time", lambda: told.processor)
    return told


def timed_call(name: str, step, hop_ms: float = 16.0, call: str = latency.PROCESS) -> TimedCall:
    return TimedCall(name, call, "numpy", hop_ms, 2048, step, list(np.zeros((7, 4), np.float32)))


def working(clocks, milliseconds, others: float = 0.0, calls: list | None = None):
    """A step that takes this long, one after the other, and lets other programs have as many times as much."""
    times = iter(milliseconds)

    def step(x):
        took = next(times) / 1e3
        clocks.processor += took
        clocks.wall += took * (1 + others)
        if calls is not None:
            calls.append(took)

    return step


def endless(value: float):
    while True:
        yield value


def test_all_take_turns_and_warm_ups_are_left_out(clocks):
    calls, hops, left_out = [], 31, latency.WARM_UP
    cold = [100.0] * left_out

    def turns():
        yield from [1000.0] * (left_out + hops)  # the first round
        for number in range(4):
            yield from cold
            yield from [1.0 + number] * hops

    entries = [
        timed_call("turns", working(clocks, turns(), calls=calls)),
        *(timed_call(name, lambda x, name=name: calls.append(name)) for name in "abc"),
    ]
    first = measure(entries, seconds=2)[0]
    assert first.wall == pytest.approx(np.repeat([[1.0], [2], [3], [4]], hops, axis=1))
    size = left_out + hops
    owners = ["".join(sorted({call if isinstance(call, str) else "turns" for call in calls[i : i + size]}))
              for i in range(0, len(calls), size)]  # fmt: skip
    rounds = [owners[i : i + 4] for i in range(0, len(owners), 4)]
    assert all(sorted(one) == ["a", "b", "c", "turns"] for one in rounds) and len(rounds) == 5
    assert len({tuple(one) for one in rounds}) > 1, "the order changes"


def test_ratios_are_per_second_of_audio_and_not_disturbed_by_other_programs(clocks):
    slow = working(clocks, endless(4.0), others=3.0)  # by the wall 16 ms
    quick = working(clocks, endless(0.5))
    short = working(clocks, endless(1.0))
    timings = measure(
        [timed_call("slow", slow), timed_call("quick", quick), timed_call("half the hop", short, hop_ms=8.0)],
        seconds=1.0,
    )
    table = latency_report.frame(timings).set_index("name")
    assert table["times_faster"].to_dict() == pytest.approx({"slow": 1, "quick": 8, "half the hop": 2})
    assert table["real_time_factor"].to_dict() == pytest.approx({"slow": 0.25, "quick": 1 / 32, "half the hop": 0.125})
    assert table["hops"].to_dict() == {"slow": 62, "quick": 62, "half the hop": 124}
    assert table.loc["slow", ["median_ms", "processor_ms", "max_ms"]].tolist() == pytest.approx([16, 4, 16])
    notes = " ".join(latency_report.notes(timings))
    assert "the processor was ours for 25 % of the time" in notes and "processors busy" not in notes


def test_ratio_is_the_median_of_the_rounds():
    """A phase in which the machine works at half its speed does not count, nor where both were slow."""
    theirs, ours = np.full((3, 5), 6.0), np.full((3, 5), 2.0)
    theirs[1], ours[1] = 12, 4
    ours[2] = 20
    leader, other = (Timing(timed_call("x", None), times, times, 0.0) for times in (theirs, ours))
    assert other.times_faster(leader) == pytest.approx(3)


def test_percentiles_and_more_threads_than_one():
    wall = np.arange(1.0, 101).reshape(4, 25)
    timing = Timing(timed_call("x", None), wall, 1.9 * wall, 0.0)
    row = latency_report.frame([timing]).iloc[0]
    assert row[["median_ms", "min_ms", "max_ms"]].tolist() == [50.5, 1, 100]
    assert row[["p95_ms", "p99_ms"]].tolist() == pytest.approx([95.05, 99.01])
    assert "x: kept 1.9 processors busy, not one" in latency_report.notes([timing])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory in use")
def test_memory_is_told_of_who_took_it():
    kept, ones = [], np.ones(2**15, "int64")

    def keep(x):
        # from the system: numpy may have some left of what was freed
        kept.append(mmap.mmap(-1, ones.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        kept[-1][:] = ones

    greedy, modest = measure([timed_call("greedy", keep), timed_call("modest", lambda x: ones.copy())], 1.0)
    turns = 2 * (latency.WARM_UP + 31)
    assert greedy.growth == pytest.approx(turns * ones.nbytes, rel=0.1)
    assert modest.growth < 2**20


def test_what_is_timed_of_a_file(tmp_path):
    signal = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    candidates = latency.find_candidates([make(tmp_path / "a.onnx"), make(tmp_path / "w.onnx", spectral=False)])
    timed = latency.timed_calls(candidates, signal)
    assert [(one.name, one.call, one.stft) for one in timed] == [
        ("a.onnx", "process()", "numpy"),
        ("a.onnx", "run()", "left out"),
        ("a.onnx", "binding", "left out"),
        ("w.onnx", "process()", "inside"),
        ("w.onnx", "run()", "inside"),
        ("w.onnx", "binding", "inside"),
    ]
    assert timed[0].file_bytes == (tmp_path / "a.onnx").stat().st_size and timed[0].hop_ms == 16
    for one in timed[1:]:
        if one.call != latency.PROCESS:
            np.testing.assert_array_equal(one.step(one.inputs[2]), one.inputs[2])


def test_spectra_are_those_of_the_stream():
    seen = []
    step = STFTStep(512, 128, window="hann", step=lambda x: seen.append(x.copy()) or x)
    signal = np.random.default_rng(1).standard_normal(128 * 9).astype(np.float32)
    Stream(step, 16000, 128, 384).process(signal)
    np.testing.assert_allclose(latency._spectra(signal.reshape(-1, 128), step.window), seen, atol=1e-4)


def test_plain_run_hands_states_on(references, recordings):
    path = references / "gtcrn" / "gtcrn_simple.onnx"
    noisy = audio.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav")[0][: 256 * 20]
    _, run, bound = latency.timed_calls(latency.find_candidates([path]), noisy)
    assert (run.call, bound.call) == ("run()", "binding")
    for x in run.inputs:
        np.testing.assert_allclose(run.step(x), bound.step(x), atol=1e-5)
    run.step.reset()
    assert np.abs(run.step(run.inputs[-1]) - bound.step(run.inputs[-1])).max() > 1e-4


def test_pytorch_and_the_two_parts_of_dtln(references, recordings):
    noisy = audio.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav")[0][:8000]
    parts = references / "dtln" / "model_1.onnx", references / "dtln" / "model_2.onnx"
    enhancer = gtcrn.load(references / "dtln" / "model.pth")
    runners = open_stream(enhancer), open_runner(*parts)
    assert isinstance(runners[1], TwoFileDTLN)
    expected = enhance_in_chunks(enhancer, noisy).aligned
    for runner in runners:
        assert (runner.sample_rate, runner.hop_length, runner.latency) == (16000, 128, enhancer.latency)
        for _ in range(2):  # from the beginning again
            np.testing.assert_allclose(latency.enhance(runner, noisy), expected, atol=1e-5)


def test_order_and_names(tmp_path, references):
    published = references / "gtcrn" / "gtcrn_simple.onnx"
    make(tmp_path / "one" / "a.onnx"), make(tmp_path / "two" / "a.onnx")
    (tmp_path / "one" / "MODEL_CARD.md").write_text("x")
    enhancer = light_v3.build(causal=True)
    found = latency.find_candidates([tmp_path, tmp_path / "one" / "a.onnx", published], [published], enhancer)
    assert [part.name for part in found] == ["gtcrn/gtcrn_simple.onnx", "PyTorch, eager", "one/a.onnx", "two/a.onnx"]
    assert found[1].file_bytes is None
    net = tmp_path / "gtcrn_ncnn" / "model.ncnn.param"
    assert latency.short_names([net, published]) == ["gtcrn_ncnn", "gtcrn_simple.onnx"]
    net.parent.mkdir()
    net.write_bytes(b"12")
    net.with_suffix(".bin").write_bytes(b"345")
    assert Candidate("n", None, (net,)).file_bytes == 5


@pytest.mark.parametrize(
    ("files", "reference", "message"),
    [
        (["nowhere.onnx"], [], "nowhere.onnx: no such file"),
        (["a.onnx", "a.wav"], [], "a.wav: a file of this kind can't be run; exported ones end in .onnx, .tflite"),
        (["empty"], [], "files=.*empty: no exported files"),
        (["bad.onnx"], [], "bad.onnx: damaged, or not an ONNX model"),
        (["bad.tflite"], [], "bad.tflite: damaged"),
        (
            ["a.onnx", "other.onnx"],
            [],
            "other.onnx: 48000 Hz, but a.onnx has 16000 Hz; compare files of one sample rate",
        ),
        (["a.onnx"], ["nowhere.onnx"], "nowhere.onnx: no such file"),
        (["a.onnx"], ["a.onnx", "other.onnx"], "a.onnx with .*other.onnx: does not run: "),
        (["a.onnx"], ["bad.onnx", "a.onnx"], "bad.onnx: damaged, or not an ONNX model"),
        (["a.onnx"], ["a.onnx"] * 3, "reference=.*: give one file, or the two of DTLN's author"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(tmp_path, files, reference, message):
    make(tmp_path / "a.onnx")
    make(tmp_path / "other.onnx", sample_rate=48000)
    (tmp_path / "empty").mkdir()
    for name in ("bad.onnx", "bad.tflite", "a.wav"):
        (tmp_path / name).write_bytes(b"TFL3 or something else" * 9)
    with pytest.raises(UserError, match=message) as error:
        latency.find_candidates([tmp_path / file for file in files], [tmp_path / file for file in reference])
    assert "\n" not in str(error.value)


def test_what_looks_ahead_is_named():
    with pytest.raises(UserError, match="cannot stream: layer"):
        latency.find_candidates([], (), light_v3.build(causal=False))


def test_quality(references, recordings, tmp_path):
    pairs = latency.read_pairs(recordings / "vctk_demand_mini", 16000)
    pairs = {name: (noisy[:40000], clean[:40000]) for name, (noisy, clean) in list(pairs.items())[:2]}
    enhancer = gtcrn.load(references / "gtcrn" / "dns3_epoch96.tar")
    published = references / "gtcrn" / "gtcrn_simple.onnx"
    candidates = latency.find_candidates([make(tmp_path / "through.onnx")], [published], enhancer)
    scores = latency.quality(candidates, pairs, workers=1)
    assert list(scores.index) == ["noisy", "gtcrn_simple.onnx", latency.PYTORCH, "through.onnx"]
    assert np.isnan(scores.loc[["noisy", latency.PYTORCH], "max_error"]).all()
    assert scores.loc["gtcrn_simple.onnx", "max_error"] < 1e-5 < scores.loc["through.onnx", "max_error"]
    metrics = list(latency.SCORES)
    assert scores.loc["through.onnx", metrics].tolist() == pytest.approx(
        scores.loc["noisy", metrics].tolist(), rel=1e-4
    )
    enhanced = [(clean, latency.enhance(open_stream(enhancer), noisy)) for noisy, clean in pairs.values()]
    expected = np.mean([evaluate_pair(*pair, 16000, ["si_sdr"]).values["si_sdr"] for pair in enhanced])
    assert scores.loc[latency.PYTORCH, "si_sdr"] == pytest.approx(expected)
    alone = latency.quality(candidates[2:], pairs, workers=1)
    assert alone["max_error"].isna().all()


def test_pairs_are_needed(tmp_path):
    with pytest.raises(UserError, match="noisy: unreadable folder: No such file or directory"):
        latency.read_pairs(tmp_path, 16000)
    for half in ("noisy", "clean"):
        (tmp_path / half).mkdir()
    with pytest.raises(UserError, match="pairs=.*: no audio files in its folders noisy and clean"):
        latency.read_pairs(tmp_path, 16000)
    audio.write(tmp_path / "noisy" / "a.wav", np.zeros((9, 2), np.float32), 16000)
    with pytest.raises(UserError, match="a.wav: 2 channels; pairs are of mono files"):
        latency.read_pairs(tmp_path, 16000)
    audio.write(tmp_path / "noisy" / "a.wav", np.zeros(9, np.float32), 16000)
    with pytest.raises(UserError, match="clean/a.wav: .*no such file"):
        latency.read_pairs(tmp_path, 16000)


NAMES = ["gtcrn_simple.onnx", latency.PYTORCH, "a_folder/with_a_very_long_name/gtcrn_of_mine.onnx"]


@pytest.fixture
def timings():
    rng = np.random.default_rng(0)
    found = []
    for number, name in enumerate(NAMES):
        for call in (latency.PROCESS, "extract()") if name != latency.PYTORCH else (latency.PROCESS,):
            times = rng.lognormal(2 * number, 0.3, (10, 31))
            size = np.nan if name == latency.PYTORCH else 3_000_000
            one = timed_call(name, None, hop_ms=8.0 if number == 2 else 16.0, call=call)._replace(file_bytes=size)
            found.append(Timing(one, times, times, 4096.0))
    return found


@pytest.fixture
def scores():
    columns = dict(zip(latency.SCORES, ([1.5, 1.6, 1.7, np.nan], [0.8] * 4, [8.0] * 4)))
    return pd.DataFrame(columns | {"max_error": [np.nan, 2e-7, np.nan, 1e-5]}, index=["noisy", *NAMES])


def test_report(timings, scores, tmp_path):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(*latency_report.terminal(timings, scores), *latency_report.notes(timings), sep="\n")
    text = console.export_text()
    assert text.count("…") == 3 and max(map(len, text.splitlines())) <= 120
    assert "a_folder/with…of_mine.onnx" in text.replace(" ", "")
    written = latency_report.write(timings, scores, tmp_path)
    assert [path.name for path in written] == ["latency.md", "latency.csv", "latency.png"]
    report = written[0].read_text()
    for expected in (
        "## process(), × faster than gtcrn_simple.onnx",
        "## the file alone, without numpy's STFT, × faster than gtcrn_simple.onnx, extract()",
        f"| {NAMES[2]} | extract() |",
        "| gtcrn_simple.onnx | 2.0e-07 | 1.600 | 0.8000 | 8.000 |",
        f"| {NAMES[2]} | 1.0e-05 | – | 0.8000 | 8.000 |",
        "- 5 s of audio each, in turns of 0.5 s, on one thread",
    ):
        assert expected in report
    table = pd.read_csv(written[1])
    assert Counter(table["name"]) == {NAMES[0]: 2, NAMES[1]: 1, NAMES[2]: 2}
    assert table.query("call == 'process()'")["max_error"].fillna(0).tolist() == [2e-7, 0, 1e-5]
    assert matplotlib.image.imread(written[2]).std() > 0
    figure = latency_report.boxes(timings)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["the file alone", "process()", "duration of a hop", "processor time, median"]
    panel = figure.axes[0]
    assert {text.get_text() for text in panel.texts} == {"hop 16 ms", "hop 8 ms"}
    assert panel.get_yticklabels()[1].get_text() == "gtcrn_simple.onnx, extract()"


def test_pytorch_alone_has_one_table(timings):
    assert len(latency_report.terminal([timings[2]])) == 1


def test_threads(clocks):
    torch.set_num_threads(2)
    try:
        seen = []
        measure([timed_call("x", lambda x: seen.append(torch.get_num_threads()))], 0.1)
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(1)


def test_one_thread_of_onnxruntime(tmp_path):
    options = PlainRun(make(tmp_path / "a.onnx"))._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
