"""Figures of signals, as `matplotlib.figure.Figure`s without global state, which `save` writes to a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gtcrn.files import whole
from gtcrn.plots.palette import BLUE, CHANGE, SPECTROGRAM

_PERCENTILE = 99.9  # level of the brightest colour; with the maximum, a click or an offset would darken the rest
_RANGE = 75  # dB shown below it
_WINDOW = 0.032  # s
_HOP = 0.008  # s
_PIXELS = 1500  # most frames that a figure can show

_LEVEL = "level [dB re full-scale sine]"
STYLE = {"font.size": 9, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6}
OPEN_STYLE = STYLE | {"axes.spines.top": False, "axes.spines.right": False}  # for plots, but not for images


def save(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure as PNG, whole or not at all. options: of `Figure.savefig`."""
    quick = {"compress_level": 3}  # spectrograms take half the time of PNG's usual 6, and a twelfth more space
    with whole(path) as partial:
        figure.savefig(partial, format="png", pil_kwargs=quick, **options)


def spectrogram_figure(
    waves: Mapping[str, np.ndarray],
    sample_rate: int,
    title: str = "",
    difference: tuple[str, str] | None = None,
    scores: Mapping[str, str] | None = None,
) -> Figure:
    """Draw waveforms above their log spectrograms on one time axis, with one scale in dB for all.

    waves: (N,) in [-1, 1] by name, drawn from top to bottom. 0 dB is the level of a full-scale sine.
    difference: names of two waves, e.g. ("noisy", "enhanced"); a last panel shows in dB where the second
    has less energy (blue) or more (red) than the first.
    scores: a text to write beside the names of waves, as from `gtcrn.plots.tables.score_texts`.
    """
    spectrograms = {name: power_spectrogram(wave, sample_rate) for name, wave in waves.items()}
    limits = colour_limits(spectrograms.values())
    peak = _peak(waves.values())
    duration = max(len(wave) for wave in waves.values()) / sample_rate

    ratios = [ratio for _ in waves for ratio in (1, 3)] + ([3] if difference else [])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.52 * sum(ratios) + 0.9), dpi=150, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.03, hspace=0.01)
        grid = figure.add_gridspec(len(ratios), 1, height_ratios=ratios)
        panels = [figure.add_subplot(grid[0])]
        panels += [figure.add_subplot(grid[i], sharex=panels[0]) for i in range(1, len(ratios))]

        for i, (name, wave) in enumerate(waves.items()):
            _draw_wave(panels[2 * i], wave, sample_rate, peak, name, (scores or {}).get(name, ""))
            image = _draw_spectrogram(
                panels[2 * i + 1],
                spectrograms[name],
                len(wave) / sample_rate,
                sample_rate,
                colours=SPECTROGRAM,
                limits=limits,
            )
        _colour_bar(figure, image, panels[: 2 * len(waves)], _LEVEL, aspect=12 * len(waves))
        if difference:
            before, after = (np.maximum(spectrograms[name], limits[0]) for name in difference)
            n_frames = min(before.shape[1], after.shape[1])
            change = after[:, :n_frames] - before[:, :n_frames]
            seconds = min(len(waves[name]) for name in difference) / sample_rate
            image = _draw_spectrogram(panels[-1], change, seconds, sample_rate, colours=CHANGE, limits=(-30, 30))
            panels[-1].set_title(f"{difference[1]} minus {difference[0]}", loc="left", fontsize=9, pad=3)
            _colour_bar(figure, image, panels[-1:], "change [dB]", aspect=8)

        for panel in panels[:-1]:
            panel.tick_params(bottom=False, labelbottom=False)
        panels[-1].set_xlim(0, duration)
        panels[-1].set_xlabel("time [s]")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def items_figure(items: Sequence[tuple[str, Mapping[str, np.ndarray]]], sample_rate: int) -> Figure:
    """Draw a row per item, (title, waves by name), with its waves side by side and one scale in dB for all.

    The waves are (N,) in [-1, 1] and have the same names in all items. Those of an item share one time axis.
    """
    columns = len(items[0][1])
    spectrograms = [[power_spectrogram(wave, sample_rate) for wave in waves.values()] for _, waves in items]
    limits = colour_limits(spectrogram for row in spectrograms for spectrogram in row)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * columns + 1, 2 * len(items) + 0.4), dpi=100, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.02, hspace=0.01)
        panels = figure.subplots(2 * len(items), columns, squeeze=False, height_ratios=[1, 4] * len(items))
        for (title, waves), row, above, below in zip(items, spectrograms, panels[::2], panels[1::2]):
            peak = _peak(waves.values())
            duration = max(len(wave) for wave in waves.values()) / sample_rate
            for panel in (*above, *below):
                panel.set_xlim(0, duration)
            for name, spectrogram, upper, lower in zip(waves, row, above, below):
                seconds = len(waves[name]) / sample_rate
                _draw_wave(upper, waves[name], sample_rate, peak, title)
                upper.tick_params(bottom=False, labelbottom=False)
                image = _draw_spectrogram(lower, spectrogram, seconds, sample_rate, colours=SPECTROGRAM, limits=limits)
                box = {"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 2}
                lower.text(0.014, 0.94, name, transform=lower.transAxes, color="white", va="top", bbox=box)
                title = ""  # only above the first column, from where it extends over the others
        for panel in panels[-1]:
            panel.set_xlabel("time [s]")
        _colour_bar(figure, image, panels, _LEVEL, aspect=25 * len(items))
    return figure


def colour_limits(spectrograms: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the lower and upper limit in dB of a colour scale for all of the spectrograms."""
    top = max(np.percentile(spectrogram, _PERCENTILE) for spectrogram in spectrograms)
    top = 5 * np.ceil(max(top, -100) / 5)  # if all are silent, any scale will do
    return top - _RANGE, top


def _peak(waves: Iterable[np.ndarray]) -> float:
    return max(max(np.abs(wave).max(initial=0) for wave in waves), 1e-3)


def power_spectrogram(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the power spectrogram (F, T) of a wave in dB, where 0 dB is a full-scale sine."""
    import librosa  # numba, which comes with it, takes seconds to import

    length = round(_WINDOW * sample_rate)
    hop = max(round(_HOP * sample_rate), len(wave) // _PIXELS)
    padded = librosa.util.fix_length(wave, size=max(len(wave), 2 * length))  # a signal may be shorter than a window
    spectrum = librosa.stft(padded, n_fft=2 * length, win_length=length, hop_length=hop, pad_mode="constant")
    frames = -(-len(wave) // hop) or 1
    # the Hann window sums up to length / 2, and a sine's level is shared by two bins, one of them negative
    return librosa.amplitude_to_db(np.abs(spectrum[:, :frames]) * 4 / length, amin=1e-10, top_db=None)


def _draw_wave(panel, wave: np.ndarray, sample_rate: int, peak: float, title: str, scores: str = "") -> None:
    """Draw the envelope, the minimum and maximum of each pixel, since there are too many samples to draw each."""
    width = max(1, len(wave) // _PIXELS)
    blocks = wave[: len(wave) // width * width].reshape(-1, width)
    time = (np.arange(len(blocks)) + 0.5) * width / sample_rate
    panel.fill_between(time, blocks.min(axis=1), blocks.max(axis=1), color=BLUE, linewidth=0.3)
    panel.set_ylim(-1.05 * peak, 1.05 * peak)
    panel.set_yticks([])
    panel.set_title(title, loc="left", fontsize=9, pad=3)
    panel.set_title(scores, loc="right", fontsize=9, pad=3)
    panel.spines[:].set_visible(False)


def _draw_spectrogram(panel, spectrogram: np.ndarray, seconds: float, sample_rate: int, colours: str, limits):
    image = panel.imshow(
        spectrogram,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, sample_rate / 2000),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="bilinear",
    )
    panel.set_ylabel("frequency [kHz]")
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 4, 5, 10]))
    return image


def _colour_bar(figure: Figure, image, panels, label: str, aspect: int) -> None:
    bar = figure.colorbar(
        image, ax=panels, label=label, extend="both", extendfrac=0.02, pad=0.01, fraction=0.03, aspect=aspect
    )
    bar.outline.set_linewidth(0.6)
