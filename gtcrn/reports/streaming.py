"""Measurements of models as streams: the delay and its parts, the time of a hop, and the difference between the stream
and the whole utterance enhanced at once."""

from __future__ import annotations

import copy
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer
from gtcrn.models.pretrained import load
from gtcrn.plots.figures import OPEN_STYLE
from gtcrn.plots.palette import BLUE, GREY, GRID, PALE, VERMILLION, bars, series
from gtcrn.profiling.cost import Cost
from gtcrn.reports.breakdown import read_signals
from gtcrn.reports.runs import scores
from gtcrn.runtime.eager import EnhancerStep
from gtcrn.weights import entries, held

_PARTS = ("waiting for a whole hop", "overlap of windows", "look-ahead", "computing")  # of the delay
_LIMIT = 40  # ms, the DNS Challenge's for window and hop
_WARM_UP = 5  # chunks before timing, since the first ones allocate memory
_ZOOM = 0.12  # s
_LEAST = -160  # dB, below any difference of float32


class StreamResult(NamedTuple):
    """The output of a stream and its times.

    output: samples as they come out, later by `latency` samples. aligned: (N,), the same without that delay.
    milliseconds: (chunks,) wall-clock times. chunk: in samples. sample_rate: in Hz.
    """

    output: np.ndarray
    aligned: np.ndarray
    milliseconds: np.ndarray
    chunk: int
    latency: int
    sample_rate: int

    @property
    def chunk_ms(self) -> float:
        """The duration of a chunk, which is the most time that it may take."""
        return 1e3 * self.chunk / self.sample_rate


def enhancers(runs: pd.DataFrame, trust: bool = False) -> dict[str, Enhancer]:
    """Load the models of the runs of `read_runs` whose weights still exist, the best of a training or the evaluated.

    trust: see `gtcrn.load`. Raises UserError if there are none.
    """
    found = {}
    for run, folder, ckpt in zip(runs["run"], map(Path, runs["path"]), runs.get("ckpt", [None] * len(runs))):
        paths = [folder / "checkpoints" / "best.ckpt"]
        if isinstance(ckpt, str):
            paths += [parent / ckpt for parent in folder.parents]  # relative to one of these
            if (named := entries().get(ckpt)) and (file := held(named)):
                paths.append(file)
        if weights := next((path for path in paths if path.is_file()), None):
            found[run] = load(weights, trust=trust)
    if not found:
        raise UserError(f"the weights of none of these {len(runs)} runs are there; name another folder in RUNS")
    return found


def noisy_inputs(runs: pd.DataFrame, seconds: float) -> dict[str, np.ndarray]:
    """Read the first seconds of the first noisy file that each run was tested on, (N,) by run.

    Raises UserError if a run has none.
    """
    first = scores(runs).groupby("run")["name"].first()
    inputs = {}
    for run, path in zip(runs["run"], runs["path"]):
        waves, rate = read_signals(path, first[run]) if run in first else ({}, 0)
        if "noisy" not in waves:
            raise UserError(f"{run}: no noisy audio of a file in its scores.csv; evaluate the run again")
        inputs[run] = waves["noisy"][: round(seconds * rate)]
    return inputs


@torch.inference_mode()
def enhance_whole(enhancer: Enhancer, wave: np.ndarray) -> np.ndarray:
    """Enhance a whole wave (N,) at once, with zeros beyond its ends as in a stream."""
    same = copy.copy(enhancer).eval()
    same.padding = "zeros"
    return same(torch.from_numpy(wave)[None])[0][0].numpy()


def enhance_in_chunks(enhancer: Enhancer, wave: np.ndarray, hops: int = 1, forget: bool = False) -> StreamResult:
    """Enhance a wave (N,) in chunks of so many hops on one thread. Raises UserError if the model looks ahead.

    forget: reset the core's state before every chunk, which shows how much its memory contributes.
    """
    step, size = EnhancerStep(enhancer), hops * enhancer.hop_length
    late = enhancer.latency + -(len(wave) + enhancer.latency) % size
    chunks = np.pad(wave, (0, late)).reshape(-1, 1, size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for chunk in chunks[:_WARM_UP]:
        step(chunk)
    step.reset()
    enhanced, times = [], []
    for chunk in chunks:
        if forget:
            step.state["core"] = enhancer.core.initial_state(1)
        begin = time.perf_counter()
        piece = step(chunk)
        times.append(1e3 * (time.perf_counter() - begin))
        enhanced.append(piece)
    torch.set_num_threads(threads)
    output = np.concatenate(enhanced, axis=1)[0]
    aligned = output[enhancer.latency :][: len(wave)]
    return StreamResult(output, aligned, np.array(times), size, enhancer.latency, enhancer.sample_rate)


def agreement(enhancer: Enhancer, wave: np.ndarray, hops: Sequence[int] = (4, 16)) -> pd.DataFrame:
    """Compare streams of several chunk lengths, in hops, with the whole utterance; return a table with a row for each.

    Columns: largest difference (of full scale), and those of `timing`.
    """
    reference = enhance_whole(enhancer, wave)
    rows = {}
    for count in hops:
        run = enhance_in_chunks(enhancer, wave, count)
        rows[count] = {"largest difference": np.abs(run.aligned - reference).max()} | timing(run)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hops in a chunk")


def timing(run: StreamResult) -> dict[str, float]:
    """Return statistics of the chunks' times in ms, the share that took longer than they last, the real-time factor."""
    median, slow = np.percentile(run.milliseconds, (50, 99))
    return {
        "chunk, ms": run.chunk_ms,
        "median, ms": median,
        "99th percentile, ms": slow,
        "longest, ms": run.milliseconds.max(),
        "too late, %": 100 * np.mean(run.milliseconds > run.chunk_ms),
        "real-time factor": run.milliseconds.mean() / run.chunk_ms,
    }


def delays(costs: Mapping[str, Cost]) -> pd.DataFrame:
    """Return a table with a row per model: the parts of the delay from input to output in ms, and their sum `total`.

    Computing is the median CPU time of a hop on one thread of this machine; nan if the model can't stream.
    """
    rows = {}
    for model, cost in costs.items():
        overlap = cost.latency_ms - cost.hop_ms - cost.lookahead_ms
        rows[model] = dict(zip(_PARTS, (cost.hop_ms, overlap, cost.lookahead_ms, cost.compute_ms)))
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    return table.assign(total=table.sum(axis=1))


def delay_figure(costs: Mapping[str, Cost]) -> tuple[Figure, str]:
    """Draw the delay of each model and its parts, with a caption."""
    table = delays(costs)[::-1]  # the first one on top
    names = [_wrapped(model) for model in table.index]
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 0.9 + 0.5 * len(table)), dpi=150, layout="constrained")
        panel = figure.subplots()
        left = np.zeros(len(table))
        for number, part in enumerate(_PARTS):
            panel.barh(names, table[part].fillna(0), left=left, height=0.6, label=part, **bars(number))
            left += table[part].fillna(0).to_numpy()
        for position, total in enumerate(table["total"]):
            panel.annotate(
                f"{total:.1f} ms", (total, position), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        panel.axvline(_LIMIT, color=GREY, linewidth=0.8, linestyle="--")
        panel.set_xlabel("delay [ms]")
        panel.set_xlim(0, 1.12 * max(*table["total"], _LIMIT))
        figure.legend(loc="outside upper left", ncols=len(_PARTS), frameon=False, fontsize=8)
    return figure, f"The dashed line at {_LIMIT} ms is the DNS Challenge's limit for window and hop."


def times_figure(streams: Mapping[str, StreamResult]) -> tuple[Figure, str] | None:
    """Draw the share of hops that took longer than a given time per model, with a caption; None without streams."""
    if not streams:
        return None
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
        panel = figure.subplots()
        for number, (model, run) in enumerate(streams.items()):
            times = np.sort(run.milliseconds)
            longer = 100 * (1 - np.arange(len(times)) / len(times))
            style = series(number) | {"markevery": 0.12, "markersize": 4, "linewidth": 1.3}
            panel.plot(times, longer, drawstyle="steps-post", label=_wrapped(model), **style)
        for deadline in sorted({run.chunk_ms for run in streams.values()}):
            panel.axvline(deadline, color=VERMILLION, linewidth=1, linestyle="--")
            panel.annotate(
                f"{deadline:g} ms", (deadline, 100), (3, 2), textcoords="offset points", color=VERMILLION, fontsize=8
            )
        panel.set(xscale="log", yscale="log", xlabel="time for a hop [ms]", ylabel="hops that took longer [%]")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        panel.grid(True, color=GRID, linewidth=0.6)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return (
        figure,
        "By the clock on the wall, whatever else the machine did. A hop right of its dashed line is too late.",
    )


def stream_figure(wave: np.ndarray, whole: np.ndarray, run: StreamResult) -> tuple[Figure, str]:
    """Draw the loudest moment of a signal as it enters and leaves the stream, and the stream's error, with a caption.

    The lower panel shows the levels of the enhanced signal and of its difference from the stream, chunk by chunk.
    wave, whole: (N,), the noisy signal, and the whole of it enhanced at once.
    """
    length = len(wave) // run.chunk * run.chunk
    loud, difference = (_levels(signal[:length], run.chunk) for signal in (whole, run.aligned - whole))
    begin = max(0, int(np.argmax(loud)) * run.chunk - round(_ZOOM / 2 * run.sample_rate))
    moment = slice(begin, begin + round(_ZOOM * run.sample_rate))
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
        upper, lower = figure.subplots(2)
        for signal, label, colour, line in (
            (wave, "noisy, as it goes in", PALE, "-"),
            (whole, "enhanced at once", BLUE, "-"),
            (run.output, "stream, as it comes out", VERMILLION, "--"),
        ):
            shown = signal[moment]
            upper.plot(
                1e3 * np.arange(begin, begin + len(shown)) / run.sample_rate,
                shown,
                color=colour,
                linestyle=line,
                label=label,
            )
        upper.set(xlabel="time [ms]", ylabel="amplitude [of full scale]")
        seconds = np.arange(len(loud) + 1) * run.chunk / run.sample_rate
        lower.stairs(loud, seconds, baseline=None, color=BLUE, label="enhanced at once")
        lower.stairs(
            difference, seconds, baseline=None, color=VERMILLION, linestyle="--", label="stream − at once, aligned"
        )
        lower.set(xlabel="time [s]", ylabel="level [dB re full scale]")
        for panel in (upper, lower):
            panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    late = 1e3 * run.latency / run.sample_rate
    largest = np.abs(run.aligned - whole).max()
    return figure, (
        f"The stream comes out {late:g} ms late, the wait for a whole hop not counted. The largest difference is "
        f"{largest:.1g} of full scale; {_LEAST} dB stands for none at all."
    )


def _levels(signal: np.ndarray, chunk: int) -> np.ndarray:
    """Return the root mean square of each chunk in dB."""
    power = np.mean(signal.astype(np.float64).reshape(-1, chunk) ** 2, axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_LEAST / 10)))


def _wrapped(model: str) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(model, 140, placeholder=" …"), 46, break_on_hyphens=False))
