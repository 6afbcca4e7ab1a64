"""Breakdown of a model's results by file, SNR and speaker, and by time and frequency.

Time-frequency bins whose clean level lies within 45 dB of the loudest count as speech. Speech is lost where the
enhanced signal has less energy than the clean one; residual noise can hide a loss, but never cause one. All other bins
count as noise, which is removed where the enhanced signal has less energy than the noisy one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gtcrn.data import audio
from gtcrn.errors import UserError
from gtcrn.metrics import METRICS
from gtcrn.plots.figures import OPEN_STYLE, STYLE, colour_limits, power_spectrogram
from gtcrn.plots.labels import label_points
from gtcrn.plots.palette import CHANGE, GREY, GRID, SCORE, SPECTROGRAM, VERMILLION, series
from gtcrn.plots.tables import summarise, summarise_by_snr
from gtcrn.reports.runs import recording, scores

SPEAKER = r"(?:\d{6}_)?(reader_\d+|[^_]+)"  # finds it in p226_001, reader_06709_snr5… and the mixture 000012_p226_001

_SPEECH_RANGE = 45  # dB
_SILENCE = -90  # dB re full-scale sine; lower levels count as silence in all signals
_SHOWN = 30  # dB
_BANDS = {"0–1 kHz": (0, 1000), "1–2 kHz": (1000, 2000), "2–4 kHz": (2000, 4000), "above 4 kHz": (4000, np.inf)}
_NAMED = 3  # files in a panel
_STEPS = 32  # frequency bands of the histogram


class Spectrograms(NamedTuple):
    """The spectrograms of a file.

    clean, noisy, enhanced: levels (F, T) in dB. speech: (F, T) bool, whether a bin counts as speech. frequencies: (F,)
    in Hz. seconds: length of the file.
    """

    clean: np.ndarray
    noisy: np.ndarray
    enhanced: np.ndarray
    speech: np.ndarray
    frequencies: np.ndarray
    seconds: float


def common_scores(runs: pd.DataFrame, speaker: str = SPEAKER) -> pd.DataFrame:
    """Return the `scores` of the files that all runs were tested on, with columns `speaker` and `snr` (nan: unknown).

    speaker: a regular expression, whose group at the beginning of a file's name is the speaker; where it does not
        match, the whole name is.

    Raises UserError if the runs have no file in common, or for a wrong expression.
    """
    every = scores(runs)
    common = every.groupby("name")["run"].transform("nunique") == len(runs)
    if not common.any():
        raise UserError(f"no test file is common to all {len(runs)} runs; name a folder of fewer runs in RUNS")
    kept = every[common].reset_index(drop=True)
    own_names = [Path(name).name for name in kept["name"]]
    try:
        speakers = [found[1] if (found := re.match(speaker, name)) else name for name in own_names]
    except (re.error, IndexError) as error:
        raise UserError(f"SPEAKER={speaker}: must be a regular expression with a (group): {error}") from None
    return kept.assign(speaker=speakers, snr=kept.get("snr", np.nan))


def by_snr(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average `common_scores` by run and SNR as `summarise_by_snr` does, in a table with the columns of `summarise`.

    It has no rows if no SNR is known. Raises UserError for a metric that was not scored.
    """
    parts = {run: summarise_by_snr(_only(own, metric)) for run, own in scores.groupby("run", sort=False)}
    rows = {(run, snr): summary.loc[metric] for run, part in parts.items() for snr, summary in part.items()}
    return _table(rows, "input SNR")


def by_speaker(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average `common_scores` by run and speaker, as `by_snr` does, with the most improved speakers first."""
    keys = ["run", "speaker"]
    rows = {key: summarise(own).loc[metric] for key, own in _only(scores, metric, *keys).groupby(keys)}
    table = _table(rows, "speaker")
    kept = table["improvement"] if "improvement" in table else METRICS[metric].goodness(table["enhanced"])
    gain = kept.groupby("speaker").mean()
    order = gain.sort_values(ascending=False).index
    return table.loc[[(run, speaker) for run in scores["run"].unique() for speaker in order]]


def _table(rows: Mapping[tuple[str, str], pd.Series], by: str) -> pd.DataFrame:
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["run", by]).astype({"files": int, "failures": int}) if rows else table


def _only(scores: pd.DataFrame, metric: str, *keys: str) -> pd.DataFrame:
    """Return the columns that `summarise` needs for one metric, so that the others are not averaged."""
    check_scored(scores, metric)
    wanted = [*keys, "snr", "failures", f"noisy_{metric}", f"enhanced_{metric}"]
    return scores[[column for column in wanted if column in scores]]


def check_scored(scores: pd.DataFrame, metric: str) -> None:
    """Raise UserError, which names the scored metrics, for a metric without scores."""
    if f"enhanced_{metric}" not in scores:
        scored = [column.removeprefix("enhanced_") for column in scores if column.startswith("enhanced_")]
        raise UserError(f"METRIC={metric}: not scored in these runs; choose from {', '.join(scored)}")


def weakest(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean noisy and enhanced score of every file over all runs, with the least improved files first."""
    check_scored(scores, metric)
    columns = [column for column in (f"noisy_{metric}", f"enhanced_{metric}") if column in scores]
    table = scores.groupby("name").agg({"speaker": "first", "snr": "first", **dict.fromkeys(columns, "mean")})
    gain = table[columns[-1]] - (table[columns[0]] if len(columns) > 1 else np.nan)
    table["improvement"] = METRICS[metric].goodness(gain)
    return table.sort_values(["improvement", columns[-1]], ascending=[True, METRICS[metric].more_is_better])


def groups_figure(table: pd.DataFrame, metric: str) -> tuple[Figure, str] | None:
    """Draw the noisy and enhanced means of `by_snr` or `by_speaker` for each run, with a caption, or None if empty."""
    if table.empty:
        return None
    by = table.index.names[1]
    groups, runs = table.index.unique(1), table.index.unique(0)
    positions = {group: position for position, group in enumerate(groups)}
    joined, spread = (True, 0.1) if by == "input SNR" else (False, 0.25)  # speakers have no order
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(max(9, 3 + 0.16 * len(groups) * len(runs)), 4), dpi=150, layout="constrained")
        panel = figure.subplots()
        if "noisy" in table:
            noisy = table["noisy"].groupby(level=1).mean()[groups]
            panel.plot(
                range(len(groups)),
                noisy,
                color=GREY,
                linestyle="-" if joined else "none",
                marker="_",
                ms=14,
                label="noisy",
            )
        shifts = spread * np.linspace(-1, 1, len(runs) + 2)[1:-1]
        for number, ((run, own), shift) in enumerate(zip(table.groupby(level=0, sort=False), shifts)):
            x = [positions[group] + shift for group in own.index.get_level_values(1)]
            style = series(number) | {"ms": 4, "linewidth": 1, "elinewidth": 1, "capsize": 2}
            style["linestyle"] = style["linestyle"] if joined else "none"
            panel.errorbar(x, own["enhanced"], own["enhanced_ci95"].fillna(0), label=_wrapped(run), **style)
        ticks = [group.removesuffix(" dB") for group in groups]
        slanted = sum(len(tick) + 2 for tick in ticks) > 60
        panel.set_xticks(range(len(ticks)), ticks, rotation=60 if slanted else 0, ha="right" if slanted else "center")
        panel.set(xlabel="input SNR [dB]" if by == "input SNR" else by, ylabel=METRICS[metric].label)
        panel.grid(True, axis="y", color=GRID, linewidth=0.6)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return (
        figure,
        f"Means over the files of each {by}; bars are 95 % intervals over files, where there are two or more.",
    )


def files_figure(scores: pd.DataFrame, metric: str) -> tuple[Figure, str] | None:
    """Draw the enhanced against the noisy score of every file, a panel per run, with a caption; None without noisy."""
    check_scored(scores, metric)
    noisy, enhanced = f"noisy_{metric}", f"enhanced_{metric}"
    if noisy not in scores:
        return None
    runs = list(scores.groupby("run", sort=False))
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    low, high = scores[[noisy, enhanced]].min().min(), scores[[noisy, enhanced]].max().max()
    margin = 0.05 * (high - low) or 1
    limits = (low - margin, high + margin)
    with matplotlib.rc_context(OPEN_STYLE):
        size = (3.1 * columns + 0.9, 3.2 * rows)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (run, own) in zip(panels, runs):
            panel.plot(limits, limits, color=GREY, linewidth=0.8)
            points = panel.scatter(
                own[noisy], own[enhanced], c=own["snr"], s=18, cmap=SCORE, edgecolors="white", linewidths=0.3
            )
            points.set_clim(scores["snr"].min(), scores["snr"].max())
            panel.set_title(_wrapped(run), loc="left", fontsize=8)
            panel.set(xlim=limits, ylim=limits, aspect="equal")
        for panel in panels[len(runs) :]:
            panel.set_visible(False)
        label = METRICS[metric].label
        figure.supxlabel(f"noisy {label}", fontsize=9)
        figure.supylabel(f"enhanced {label}", fontsize=9)
        if scores["snr"].notna().any():
            figure.colorbar(
                points, ax=list(panels), label="input SNR [dB]", fraction=0.03, pad=0.01
            ).outline.set_visible(False)
        figure.draw_without_rendering()  # lays out the panels, so that the room for names is known
        for panel, (_, own) in zip(panels, runs):
            named = METRICS[metric].goodness(own[enhanced] - own[noisy]).nsmallest(_NAMED).index
            points = {own["name"][index]: (own[noisy][index], own[enhanced][index]) for index in named}
            label_points(panel, points, fontsize=7, color=VERMILLION)
    side = "below" if METRICS[metric].more_is_better else "above"
    return figure, f"A point is a file; {side} the line it became worse. Named: the {_NAMED} that gained least."


def results(folder: Path | str) -> Path:
    """Return the folder of a run's scores and audio: `test` in that of a training, an evaluation's own."""
    test = Path(folder) / "test"
    return test if test.is_dir() else Path(folder)


def read_signals(folder: Path | str, name: str, sample_rate: int | None = None) -> tuple[dict[str, np.ndarray], int]:
    """Read the noisy, enhanced and clean signal of a run's test file, as far as they exist, and their rate in Hz.

    They are (N,) float32, cut to the shortest, at `sample_rate` or that of the enhanced signal. Raises UserError if
    there is no enhanced signal.
    """
    roles = ("noisy", "enhanced", "clean")
    found = {role: path for role in roles if (path := recording(results(folder) / role, name))}
    if "enhanced" not in found:
        raise UserError(f"{name}: no enhanced audio in {folder}; choose another file, or evaluate the run again")
    rate = sample_rate or audio.info(found["enhanced"]).samplerate
    waves = {role: audio.load(path, rate) for role, path in found.items()}
    length = min(map(len, waves.values()))
    return {role: wave[:length] for role, wave in waves.items()}, rate


def side_by_side(runs: pd.DataFrame, name: str) -> tuple[dict[str, np.ndarray], int]:
    """Read a test file to listen to: noisy, enhanced by each run, and clean, (N,) by name, and their rate in Hz."""
    paths = dict(zip(runs["run"], runs["path"]))
    inputs, rate = read_signals(next(iter(paths.values())), name)
    enhanced = {run: read_signals(path, name, rate)[0]["enhanced"] for run, path in paths.items()}
    waves = {"noisy": inputs.get("noisy"), **enhanced, "clean": inputs.get("clean")}
    return {label: wave for label, wave in waves.items() if wave is not None}, rate


def spectrograms(waves: Mapping[str, np.ndarray], sample_rate: int) -> Spectrograms:
    """Compute the spectrograms of the clean, noisy and enhanced wave, (N,) each.

    Raises UserError if one of them is missing.
    """
    if missing := {"clean", "noisy", "enhanced"} - waves.keys():
        raise UserError(f"these results have no {' and no '.join(sorted(missing))} signal; evaluate the run again")
    clean, noisy, enhanced = (
        np.maximum(power_spectrogram(waves[role], sample_rate), _SILENCE) for role in ("clean", "noisy", "enhanced")
    )
    speech = clean > max(clean.max() - _SPEECH_RANGE, _SILENCE)
    frequencies = np.linspace(0, sample_rate / 2, len(clean))
    return Spectrograms(clean, noisy, enhanced, speech, frequencies, len(waves["clean"]) / sample_rate)


def speech_lost(file: Spectrograms, low: float = 0, high: float = np.inf) -> float:
    """Return the share in % of the speech's energy from `low` to below `high` Hz that is lost; nan without speech."""
    where = file.speech & _between(file.frequencies, low, high)
    clean, enhanced = _power(file.clean[where]), _power(file.enhanced[where])
    return 100 * np.maximum(clean - enhanced, 0).sum() / clean.sum() if where.any() else np.nan


def noise_removed(file: Spectrograms) -> float:
    """Return by how many dB the enhanced signal has less energy than the noisy one where there is no speech."""
    noisy, enhanced = (_power(level[~file.speech]).sum() for level in (file.noisy, file.enhanced))
    return 10 * np.log10(noisy / enhanced) if noisy else np.nan


def removal(runs: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return a table of what each of the `runs` of `read_runs` removed from the named files. Index: run, name.

    Columns: speech lost in %, in all and by band, and noise removed in dB.
    """
    rows = {}
    for run, path in zip(runs["run"], runs["path"]):
        for name in names:
            file = spectrograms(*read_signals(path, name))
            lost = {f"{band}, %": speech_lost(file, *edges) for band, edges in _BANDS.items()}
            rows[run, name] = {"speech lost, %": speech_lost(file), **lost, "noise removed, dB": noise_removed(file)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["run", "name"])


def removal_figure(files: Mapping[str, Spectrograms]) -> tuple[Figure, str]:
    """Draw the clean spectrogram of a file, and what each run removed from it, with a caption.

    files: the spectrograms of the same file by run.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.9 * (len(files) + 1) + 0.5), dpi=150, layout="constrained")
        panels = figure.subplots(len(files) + 1, 2, squeeze=False, sharex="col", sharey=True, width_ratios=[6, 1])
        first = next(iter(files.values()))
        limits = colour_limits([first.clean])
        image = _draw(panels[0, 0], first, first.clean, SPECTROGRAM, limits)
        panels[0, 0].set_title("clean", loc="left", fontsize=9, pad=3)
        figure.colorbar(image, ax=panels[0], label="level [dB]", pad=0.01, fraction=0.03, aspect=10)
        panels[0, 1].axis("off")
        for (left, right), (run, file) in zip(panels[1:], files.items()):
            lost, less = np.maximum(file.clean - file.enhanced, 0), np.maximum(file.noisy - file.enhanced, 0)
            image = _draw(left, file, np.where(file.speech, lost, -less), CHANGE, (-_SHOWN, _SHOWN))
            left.set_title(_shortened(run, 110), loc="left", fontsize=9, pad=3)
            _draw_lost(right, file)
        panels[-1, 0].set_xlabel("time [s]")
        panels[-1, 1].set_xlabel("speech lost [%]")
        bar = figure.colorbar(
            image,
            ax=panels[1:],
            label="← noise   removed [dB]   speech →",
            extend="both",
            pad=0.01,
            fraction=0.03,
            aspect=10 * len(files),
        )
        bar.set_ticks(ticks := range(-_SHOWN, _SHOWN + 1, 10), labels=[f"{abs(tick)}" for tick in ticks])
    return (
        figure,
        "What the enhanced signal lacks: of the speech in red, of the noise in blue. Right: the part of the \
energy of the speech that is lost, by frequency.",
    )


def _draw(panel, file: Spectrograms, levels: np.ndarray, colours: str, limits: tuple[float, float]):
    extent = (0, file.seconds, 0, file.frequencies[-1] / 1000)
    style = {"origin": "lower", "aspect": "auto", "cmap": colours, "interpolation": "bilinear"}
    panel.set_ylabel("frequency [kHz]")
    return panel.imshow(levels, extent=extent, vmin=limits[0], vmax=limits[1], **style)


def _draw_lost(panel, file: Spectrograms) -> None:
    edges = np.linspace(0, file.frequencies[-1], _STEPS + 1)
    lost = [speech_lost(file, low, high) for low, high in zip(edges, edges[1:])]
    panel.stairs(lost, edges / 1000, orientation="horizontal", fill=True, color=VERMILLION, alpha=0.7)
    panel.set_xlim(0, 100)
    panel.spines[["top", "right"]].set_visible(False)


def _between(frequencies: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return which frequencies lie from `low` to below `high`, (F, 1) bool."""
    return ((low <= frequencies) & (frequencies < high))[:, None]


def _power(level: np.ndarray) -> np.ndarray:
    return 10 ** (level / 10)


def _shortened(run: str, length: int) -> str:
    return textwrap.shorten(run, length, placeholder=" …")


def _wrapped(run: str) -> str:
    return "\n".join(textwrap.wrap(_shortened(run, 140), 46, break_on_hyphens=False))
