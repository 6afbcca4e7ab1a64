"""What is drawn: levels, axes, one scale for all, and signals that are awkward to draw."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from gtcrn.errors import UserError
from gtcrn.plots.figures import items_figure, power_spectrogram, save, spectrogram_figure

RATE = 16000


def tone(frequency: float, amplitude: float, seconds: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency / RATE * np.arange(round(seconds * RATE)))


def images(figure):
    return [image for axes in figure.axes for image in axes.get_images()]


def test_full_scale_sine_is_0_db_at_its_frequency():
    spectrogram = power_spectrogram(tone(1000, 1.0), RATE)
    middle = spectrogram[:, spectrogram.shape[1] // 2]
    assert middle.max() == pytest.approx(0, abs=0.05)
    assert np.argmax(middle) / (len(middle) - 1) * RATE / 2 == pytest.approx(1000, abs=10)
    assert spectrogram.shape[1] == 125  # one frame per 8 ms


def test_all_panels_share_scale_and_time(tmp_path):
    clean = tone(1000, 0.5)
    waves = {"noisy": clean + tone(3000, 0.1), "enhanced": 0.8 * clean, "clean": clean}
    figure = spectrogram_figure(waves, RATE, title="three tones")
    assert len({image.get_clim() for image in images(figure)}) == 1
    assert all(image.get_extent() == [0, 1, 0, 8] for image in images(figure))
    assert len({axes.get_xlim() for axes in figure.axes[:6]}) == 1
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


def test_scores_stand_beside_the_names():
    waves = {"noisy": tone(1000, 0.5), "clean": tone(1000, 0.4)}
    figure = spectrogram_figure(waves, RATE, scores={"noisy": "PESQ-wb 1.97   SI-SDR dB 8.45"})
    titles = [(axes.get_title(loc="left"), axes.get_title(loc="right")) for axes in figure.axes]
    assert ("noisy", "PESQ-wb 1.97   SI-SDR dB 8.45") in titles and ("clean", "") in titles


def test_difference_panel_shows_what_was_removed():
    waves = {"noisy": tone(1000, 0.5) + tone(3000, 0.1), "enhanced": tone(1000, 0.5)}
    change = images(spectrogram_figure(waves, RATE, difference=("noisy", "enhanced")))[-1].get_array()
    frequencies = np.linspace(0, 8000, change.shape[0])
    middle = change[:, change.shape[1] // 2]
    assert middle[np.abs(frequencies - 3000).argmin()] < -40
    assert abs(middle[np.abs(frequencies - 1000).argmin()]) < 0.5


@pytest.mark.parametrize("seconds", [0.01, 0.5, 300])
def test_silence_short_and_long(tmp_path, seconds):
    waves = {"noisy": tone(1000, 0.1, seconds), "enhanced": np.zeros(round(seconds * RATE), np.float32)}
    figure = spectrogram_figure(waves, RATE, difference=("noisy", "enhanced"))
    figure.savefig(tmp_path / "figure.png")
    assert all(image.get_array().shape[1] <= 2 * 1500 for image in images(figure))
    spectrogram_figure({"silence": waves["enhanced"]}, RATE).savefig(tmp_path / "silence.png")


def test_items_stand_side_by_side_under_their_titles(tmp_path):
    items = [
        (
            f"item {number}",
            {"noisy": tone(1000, 0.5, seconds) + tone(3000, 0.1, seconds), "clean": tone(1000, 0.5, seconds)},
        )
        for number, seconds in enumerate((0.5, 1.0, 0.01))
    ]
    figure = items_figure(items, RATE)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")] == [
        "item 0",
        "item 1",
        "item 2",
    ]
    assert len(images(figure)) == 6 and len({image.get_clim() for image in images(figure)}) == 1
    assert [image.get_extent()[1] for image in images(figure)] == [0.5, 0.5, 1.0, 1.0, 0.01, 0.01]
    noisy, clean = (image.get_array() for image in images(figure)[2:4])
    row = round(3000 / (RATE / 2) * (len(noisy) - 1))
    assert noisy[row].mean() == pytest.approx(-20, abs=1) and clean[row].mean() < -60
    figure.savefig(tmp_path / "items.png")
    assert (tmp_path / "items.png").stat().st_size > 20_000


def test_pyplot_is_not_imported():
    code = "import sys, gtcrn.plots.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_figure_that_cannot_be_written_is_told_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a.png: can't be written"):
        save(Figure(), tmp_path / "file" / "a.png")
    save(Figure(), tmp_path / "a.png", dpi=20)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
