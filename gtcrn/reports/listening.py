"""A single HTML page to hear and see finished runs side by side, which opens from disk and needs no network."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import soundfile
from PIL import Image

from gtcrn.data import audio
from gtcrn.errors import UserError, counted
from gtcrn.files import write_text
from gtcrn.metrics import METRICS
from gtcrn.plots.figures import colour_limits, power_spectrogram
from gtcrn.plots.palette import BLUE, ORANGE, SPECTROGRAM, VERMILLION
from gtcrn.plots.tables import HEADLINE, unmarked
from gtcrn.reports.runs import recording

log = logging.getLogger(__name__)

_LONGEST = 15  # s; of a longer clip only the beginning is on the page
_TOLERANCE = 0.010  # s by which the signals of one utterance may differ in length, as in scoring
_WIDTH, _HEIGHT = 720, 192  # pixels of a spectrogram, as many as a dense screen shows in its panel
_DATA = "{{data}}"  # the placeholder in the template
_COLOURS = {"{{blue}}": BLUE, "{{vermillion}}": VERMILLION, "{{orange}}": ORANGE}
_SILENT = 1e-3  # of full scale; a signal whose RMS level is lower isn't made louder than this one would be

_COSTS = {  # key in summary.json: label, digits, note
    "parameters_trainable": ("parameters", 0, "trainable ones, without fixed ERB matrices"),
    "mmacs_exact": ("MMACs/s", 1, "exact count of multiply-accumulates with weights"),
    "latency_ms": ("latency ms", 1, "of the algorithm: what the buffering alone costs, hop included"),
    "lookahead_ms": ("look-ahead ms", 0, "of the network; 0 where it streams"),
}


@dataclass(frozen=True)
class _Run:
    """A run that can be shown.

    folder: holds `enhanced/`. scores: of the files with enhanced audio, by name. cost: as in summary.json.
    """

    name: str
    folder: Path
    scores: pd.DataFrame
    cost: Mapping[str, float]


def write_page(
    runs: Mapping[str, Path],
    path: Path,
    files: int = 12,
    metric: str | None = None,
    title: str | None = None,
    compared: Mapping[str, Any] | None = None,
) -> Path:
    """Write a self-contained HTML page about the test files that all of `runs`, {name: run folder}, have in common.

    It shows `files` of them: the worst, the best, and some from the middle by `metric` (by default the first one
    scored), averaged over the runs. The noisy and clean signals come from the folders `noisy` and `clean` beside
    `enhanced`, if any run has them. Runs that failed, or have no enhanced audio, are left out; the page says so. The
    title is the question that the page answers, unless one is given. compared: a comparison to show, as from
    `gtcrn.reports.paired_report.content`.

    Raises UserError if no run is left, they have no file in common, the metric is not scored, or audio is unreadable.
    """
    if files < 1:
        raise UserError(f"files={files}: must be 1 or more")
    finished, notes = _finished(runs)
    names = [name for name in finished[0].scores.index if all(name in run.scores.index for run in finished)]
    if not names:
        raise UserError(f"{', '.join(run.name for run in finished)}: no test file is common to all; choose fewer runs")
    scores = {
        key: _values(finished, names, key) for key in METRICS if any(f"enhanced_{key}" in r.scores for r in finished)
    }
    metric = metric or next(iter(scores), None)
    if metric not in scores:
        raise UserError(f"metric={metric}: not scored in these runs; choose from {', '.join(scores) or 'none'}")

    # a missing score, e.g. of a silent output, counts as the worst
    score = METRICS[metric].goodness(scores[metric].iloc[:, 1:]).mean(axis=1, skipna=False)
    chosen = _choose(list(score.sort_values(na_position="first", kind="stable").index), files)
    utterances = [_utterance(name, rank, finished, scores) for name, rank in chosen.items()]

    content = {
        "title": title or _question(len(finished)),
        "metric": metric,
        "columns": _columns(scores, finished),
        "metrics": list(scores),
        "headline": [key for key in HEADLINE if key in scores],
        "conditions": ["noisy", *(run.name for run in finished), "clean"],
        "models": _models(scores, finished),
        "colours": [
            matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps[SPECTROGRAM](np.linspace(0, 1, 9))
        ],
        "files": len(names),
        "longest": _LONGEST,
        "compared": compared,
        "notes": notes + _notes(finished, names, scores, metric),
        "utterances": utterances,
    }
    path = Path(path)
    _write(content, path)
    megabytes = path.stat().st_size / 1e6
    files, runs = counted(len(names), "test file"), counted(len(finished), "run")
    log.info("%s: %d of %s of %s, %.1f MB", path, len(chosen), files, runs, megabytes)
    return path


def _write(content: dict, path: Path) -> None:
    template = resources.files("gtcrn.reports").joinpath("listening.html").read_text("utf-8")
    for placeholder, colour in _COLOURS.items():
        template = template.replace(placeholder, colour)
    # "<" could end the script element that holds the data
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    write_text(path, template.replace(_DATA, data))


def _question(models: int) -> str:
    return f"Which of these {models} models sounds best?" if models > 1 else "Does the model make these sound better?"


def _finished(runs: Mapping[str, Path]) -> tuple[list[_Run], list[str]]:
    """Return the runs that can be shown, and a line for each other one that says why it can't be."""
    finished, left_out = [], []
    for name, folder in runs.items():
        try:
            finished.append(_read(name, Path(folder)))
        except UserError as reason:
            log.warning("left out %s: %s: %s", name, folder, reason)
            left_out.append(f"Left out: run {name} ({reason}).")
    if not finished:
        raise UserError(" ".join(left_out) or "no runs were given: name at least one finished run")
    return finished, left_out


def _read(name: str, folder: Path) -> _Run:
    """Read a run. Raises UserError if it can't be shown, without its folder, which the page must not disclose."""
    summary, failure = folder / "summary.json", folder / "error.txt"
    if not summary.is_file():
        first_line = failure.read_text(errors="replace").partition("\n")[0] if failure.is_file() else ""
        raise UserError(f"failed: {first_line}" if first_line else "not finished, there is no summary.json")
    results = folder / "test" if (folder / "test").is_dir() else folder
    if not (results / "scores.csv").is_file():
        raise UserError("nothing was tested, there is no scores.csv")
    try:
        cost = json.loads(summary.read_text("utf-8")).get("cost", {})
        # read as text, since a file may be called 007 or NA
        scores = pd.read_csv(results / "scores.csv", dtype={"name": str}, keep_default_na=False, na_values=[""])
        scores = scores.set_index(unmarked(scores["name"]))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError("summary.json or scores.csv is broken, evaluate the checkpoint again") from error
    enhanced = [name for name in scores.index.unique() if recording(results / "enhanced", name)]
    if not enhanced:
        raise UserError("no enhanced audio of the files in scores.csv")
    return _Run(name, results, scores[~scores.index.duplicated()].loc[enhanced], cost)


def _values(runs: Sequence[_Run], names: Sequence[str], metric: str) -> pd.DataFrame:
    """Return a row per file; column 0 is noisy, from the first run that scored it, and the others are the runs."""
    noisy = next((run for run in runs if f"noisy_{metric}" in run.scores), runs[0])
    columns = [(noisy, f"noisy_{metric}"), *((run, f"enhanced_{metric}") for run in runs)]
    return pd.DataFrame(
        {
            number: pd.to_numeric(run.scores[column], errors="coerce").loc[names] if column in run.scores else np.nan
            for number, (run, column) in enumerate(columns)
        },
        index=names,
    )


def _choose(ranked: Sequence[str], files: int) -> dict[str, str]:
    """Choose `files` of the names, which are ranked from the worst: return {name: worst, middle or best}.

    If there are no more names than that, all are chosen, with an empty text.
    """
    if len(ranked) <= files:
        return dict.fromkeys(ranked, "")
    middle, rest = divmod(files, 3)
    worst, best = middle + (rest > 0), middle + (rest > 1)
    start = (len(ranked) - middle) // 2
    return {
        **dict.fromkeys(ranked[:worst], "worst"),
        **dict.fromkeys(ranked[start : start + middle], "middle"),
        **dict.fromkeys(ranked[len(ranked) - best :], "best"),
    }


def _columns(scores: Mapping[str, pd.DataFrame], runs: Sequence[_Run]) -> list[dict]:
    """Return the columns of the table of models: the scored metrics, then the costs that any run has."""
    metrics = {key: METRICS[key] for key in scores}
    return [
        {"key": key, "label": metric.label, "digits": metric.digits, "note": metric.described,
         "more": metric.more_is_better}
        for key, metric in metrics.items()
    ] + [
        {"key": key, "label": label, "digits": digits, "note": note, "more": False}
        for key, (label, digits, note) in _COSTS.items()
        if any(key in run.cost for run in runs)
    ]  # fmt: skip


def _models(scores: Mapping[str, pd.DataFrame], runs: Sequence[_Run]) -> list[dict]:
    """Return a row for noisy and for each run: means over the files for which all that have scores have one."""
    means = {key: values.dropna(axis=1, how="all").dropna().mean() for key, values in scores.items()}
    rows = [
        {"name": name, "values": {key: _number(mean.get(number)) for key, mean in means.items()}}
        for number, name in enumerate(["noisy", *(run.name for run in runs)])
    ]
    for row, run in zip(rows[1:], runs):
        row["values"] |= {key: _number(run.cost.get(key)) for key in _COSTS}
    return rows if any(value is not None for value in rows[0]["values"].values()) else rows[1:]


def _number(value: float | None) -> float | None:
    """Return a value for JSON, which has no nan: None in its place."""
    return float(f"{value:.6g}") if value is not None and np.isfinite(value) else None


def _notes(runs: Sequence[_Run], names: Sequence[str], scores: Mapping[str, pd.DataFrame], metric: str) -> list[str]:
    """Return notes on what limits a fair comparison of the numbers."""
    notes = []
    if others := len(set().union(*(run.scores.index for run in runs))) - len(names):
        notes.append(f"{others} test files that only some of the runs have are left out.")
    for key, values in scores.items():
        if failed := int(values.dropna(axis=1, how="all").isna().any(axis=1).sum()):
            notes.append(f"{METRICS[key].label}: {failed} of {len(names)} files lack a score and are in no mean.")
    column = f"noisy_{metric}"
    inputs = [pd.to_numeric(run.scores.loc[names, column], errors="coerce") for run in runs if column in run.scores]
    differ = sum(~np.isclose(other, inputs[0], rtol=0.05, atol=0.05, equal_nan=True) for other in inputs[1:])
    if different := int(np.count_nonzero(differ)):
        notes.append(
            f"Not the same input: the noisy {METRICS[metric].label} of {different} files differs between the runs."
        )
    for role in ("noisy", "clean"):
        if not any((run.folder / role).is_dir() for run in runs):
            notes.append(f"The {role} signals can't be heard: no run has a folder {role} beside enhanced.")
    return notes


def _utterance(name: str, rank: str, runs: Sequence[_Run], scores: Mapping[str, pd.DataFrame]) -> dict:
    found = [_input(runs, "noisy", name), *(recording(run.folder / "enhanced", name) for run in runs)]
    found.append(_input(runs, "clean", name))
    paths = {condition: path for condition, path in enumerate(found) if path}
    headers = {path: _header(path) for path in paths.values()}
    lengths = {path: header.frames / header.samplerate for path, header in headers.items()}
    shortest, longest = min(lengths, key=lengths.get), max(lengths, key=lengths.get)
    if lengths[longest] - lengths[shortest] > _TOLERANCE:
        raise UserError(f"{longest}: {lengths[longest]:.2f} s, but {shortest} has {lengths[shortest]:.2f} s; "
                        "they must be the same recording")  # fmt: skip

    seconds = min(lengths[shortest], _LONGEST)
    rates = {condition: headers[path].samplerate for condition, path in paths.items()}
    waves = {
        condition: audio.read(path, frames=round(seconds * rates[condition]))[0] for condition, path in paths.items()
    }
    spectrograms = {condition: power_spectrogram(_finite(wave), rates[condition]) for condition, wave in waves.items()}
    limits = colour_limits(spectrograms.values())
    gains = _gains(waves)
    top = max(rates.values())
    return {
        "name": name,
        "rank": rank,
        "seconds": seconds,
        "whole": lengths[shortest],
        "snr": _number(next((run.scores["snr"][name] for run in runs if "snr" in run.scores), None)),
        "hertz": top / 2,
        "decibels": [float(limit) for limit in limits],
        "scores": {key: [_number(value) for value in values.loc[name]] for key, values in scores.items()},
        "clips": [
            {
                "condition": condition,
                "rate": rates[condition],
                "gain": gains[condition],
                "flaw": _flaw(wave),
                "audio": _flac(wave, rates[condition]),
                "picture": _picture(spectrograms[condition], limits, round(_HEIGHT * rates[condition] / top)),
            }
            for condition, wave in waves.items()
        ],
    }


def _input(runs: Sequence[_Run], role: str, name: str) -> Path | None:
    """Return the file of the noisy or clean signal, from the run that has it at the highest rate."""
    found = [path for run in runs if (path := recording(run.folder / role, name))]
    return max(found, key=lambda path: audio.info(path).samplerate, default=None)


def _header(path: Path):
    header = audio.info(path)
    if header.channels != 1:
        raise UserError(f"{path}: {header.channels} channels; the page compares mono signals")
    if not header.frames:
        raise UserError(f"{path}: is empty; evaluate the checkpoint again")
    return header


def _finite(wave: np.ndarray) -> np.ndarray:
    return np.nan_to_num(wave, nan=0, posinf=1, neginf=-1)


def _gains(waves: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Return the factors that bring all waves to the RMS level of the first, or to a lower one if a wave would clip."""
    finite = {condition: np.clip(_finite(wave), -1, 1) for condition, wave in waves.items()}
    levels = {condition: max(np.sqrt(np.mean(wave**2)), _SILENT) for condition, wave in finite.items()}
    first = next(iter(levels.values()))
    loudest = max(np.abs(wave).max() * first / levels[condition] for condition, wave in finite.items())
    return {condition: float(f"{first / level / max(1, loudest):.4g}") for condition, level in levels.items()}


def _flaw(wave: np.ndarray) -> str:
    if not np.isfinite(wave).all():
        return "NaN or infinite samples, silent here"
    return "above full scale, clipped here" if np.abs(wave).max() > 1 else ""


def _flac(wave: np.ndarray, sample_rate: int) -> str:
    """Encode a wave as 16-bit FLAC in base64, lossless so that nobody hears a codec's artefacts as the model's."""
    samples = np.clip(np.rint(32768 * _finite(wave)), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, subtype="PCM_16", format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


def _picture(spectrogram: np.ndarray, limits: tuple[float, float], height: int) -> str:
    """Draw a spectrogram (F, T) in dB as a WebP image in base64, without axes."""
    size = min(spectrogram.shape[1], _WIDTH), height
    power = Image.fromarray(
        (10 ** (spectrogram[::-1] / 10)).astype(np.float32)
    )  # scaled as power, since averaging in dB would blur lines
    pixels = 10 * np.log10(np.asarray(power.resize(size, Image.Resampling.BOX)))
    scaled = (pixels - limits[0]) / (limits[1] - limits[0])
    file = io.BytesIO()
    Image.fromarray(matplotlib.colormaps[SPECTROGRAM](scaled, bytes=True)[..., :3]).save(file, "WEBP", quality=80)
    return base64.b64encode(file.getvalue()).decode()
