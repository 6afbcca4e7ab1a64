"""Steps of training are timed in turns, and told with what ran in them."""

import sys
from functools import partial
from itertools import count

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from tqdm import tqdm

from gtcrn.losses import SISDR, CompressedMagnitude, Loss
from gtcrn.models import dtln, fastenhancer, light_v3
from gtcrn.profiling import training, training_report
from gtcrn.profiling.training import PARTS, Profile, Setting, Step

LOSS = Loss({"magnitude": CompressedMagnitude(70, 0.3, 512, 256), "sisdr": SISDR(0.1)})
FORMS = ["plain", "torch", "numba"]
SMALL = Setting("light_v3", 1, 1, 1, 0.5)
SGD = partial(torch.optim.SGD, lr=0.1)


def test_all_take_turns_and_the_first_round_is_left_out():
    called, clock = [], count()

    def call(name):
        called.append(name)
        return np.full((2, 1), next(clock))

    with tqdm(disable=True) as bar:
        times = training._in_turns([partial(call, name) for name in "abc"], 4, bar)
    rounds = ["".join(called[i : i + 3]) for i in range(0, len(called), 3)]
    assert len(rounds) == 5 and all(sorted(one) == list("abc") for one in rounds)
    assert len(set(rounds)) > 1, "the order changes"
    expected = [[3 * number + one.index(name) for name in "abc"] for number, one in enumerate(rounds)]
    np.testing.assert_array_equal(times[:, :, 0, 0], expected[1:])


def test_ratios_are_of_the_same_round_and_of_the_processor():
    cpu, wall = [[2.0, 1.0], [6.0, 2.0], [10.0, 2.0]], [[9.0, 1.0]] * 3  # a busy machine; rounds of two forms
    times = np.stack([cpu, wall], axis=2)[..., None] * [0.25, 0.75]  # in two parts
    first, second = training._rows(["plain", "numba"], times)
    assert (first["ratio"], second["ratio"]) == (1, 3)
    assert (second["ratio_min"], second["ratio_max"], second["cpu"], second["wall"]) == (2, 5, 2, 1)
    assert np.isnan(training._rows(["torch", "numba"], times)[0]["ratio"])


def test_a_step_trains_and_tells_what_ran():
    kernels, sizes = {}, {}
    for form in FORMS:
        torch.manual_seed(0)
        model = training._formed(light_v3.build(), form)
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        step = Step(model, form, SMALL, LOSS, SGD)
        assert step().shape == (2, len(PARTS)) and (step() >= 0).all()
        assert not torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters()))
        kernels[form], sizes[form] = step.kernels(), step.operators.total()
    assert kernels["plain"] == kernels["torch"] == "none" and "GRU × 4" in kernels["numba"]
    assert sizes["numba"] < sizes["plain"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory in use")
def test_memory_is_that_of_a_process_of_its_own():
    setting = Setting("light_v3", 1, 1, batch=8, seconds=1)
    peak = training._in_fresh_process(training._peak, fastenhancer.build, "numba", setting, LOSS, SGD)
    wave = 8 * 16000 * 4  # bytes
    assert 100 * wave < peak < 1000 * wave


@pytest.fixture(scope="module")
def profile():
    settings = {
        SMALL: partial(light_v3.build, causal=False),
        Setting("light_v3", 2, 1, 1, 0.5): partial(light_v3.build, 2, causal=False),
        Setting("dtln", 1, 1, 1, 0.5): dtln.build,
    }
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_in_fresh_process", lambda *arguments: 2.0**20)
        patch.setattr(training, "FILE_SECONDS", 1)
        patch.setattr(training, "time_per_hop", lambda model: 3.0)
        measured = training.measure(settings, FORMS, LOSS, SGD, rounds=2)
    assert torch.get_num_threads() == threads
    return measured


def test_every_form_that_there_is_in_every_setting(profile):
    steps, files = profile
    assert steps.groupby(["model", "width"], sort=False)["form"].agg(list).to_dict() == {
        ("light_v3", 1): FORMS,
        ("light_v3", 2): FORMS,
        ("dtln", 1): FORMS[1:],
    }
    assert steps["memory_bytes"].notna().tolist() == [True] * 3 + [False] * 3 + [True] * 2
    assert steps["ratio"].isna().tolist() == [False] * 6 + [True] * 2
    assert (steps["cpu_min"] <= steps["cpu"]).all() and (steps["cpu"] <= steps["cpu_max"]).all()
    assert steps["real_time"].tolist() == pytest.approx((0.5 / steps["cpu"]).tolist())
    assert files["model"].tolist() == ["light_v3"] * 3 + ["dtln"] * 2
    assert files["hop_ms"].fillna(0).tolist() == [0] * 3 + [3] * 2, "what looks ahead has no hops"


def test_report(profile, tmp_path):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    shown = Profile(profile.steps.assign(kernels="Convolution × 16, GRU × 14, NormPReLU × 15"), profile.files)
    shown = Profile(*(part.replace("light_v3", "light_v3_one_dpgrnn") for part in shown))
    console.print(*training_report.terminal(shown), *training_report.NOTES, sep="\n")
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 120 and "…" not in text and "nan" not in text
    written = training_report.write(profile, tmp_path)
    assert [path.name for path in written] == ["training.md", "training.csv", "training_files.csv", "training.png"]
    report = written[0].read_text()
    assert "| dtln | 1 × 0.5 s | 1 | 1 | – | " in report and "GRU × 4" in report and "nan" not in report
    assert len(pd.read_csv(written[1])) == 8 and len(pd.read_csv(written[2])) == 5
    assert matplotlib.image.imread(written[3]).std() > 0


def test_figure():
    rows = [
        {"model": "m", "form": form, "width": width, "batch": 2, "seconds": 4, "threads": threads, "cpu": cpu}
        | dict.fromkeys(PARTS, cpu / 4)
        for width, threads, cpu in ((1, 1, 0.3), (0.5, 1, 0.1), (1, 2, 0.9))
        for form in ("plain", "numba")
    ]
    figure = training_report.figure(pd.DataFrame(rows))
    split, width = figure.axes  # batch and length stay the same
    assert sum(bar.get_width() for bars in split.containers for bar in bars[:1]) == pytest.approx(300)
    assert [line.get_xydata().tolist() for line in width.lines] == [[[0.5, 100], [1, 300]]] * 2
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ["plain", "numba"]
