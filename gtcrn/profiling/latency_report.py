"""The report of `gtcrn.profiling.latency` as text, as numbers and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import rich.table
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gtcrn.files import write_text
from gtcrn.metrics import METRICS
from gtcrn.plots.figures import OPEN_STYLE, save
from gtcrn.plots.palette import BLUE, GRID, ORANGE, SKY, VERMILLION
from gtcrn.plots.tables import markdown_table, rich_table, write_csv
from gtcrn.profiling.latency import PROCESS, ROUND, SCORES, WARM_UP, TimedCall, Timing

_NONE = "–"
_NAME_LENGTH = 27  # characters of a name that a terminal has room for
_LEAST_PROCESSORS, _MOST_PROCESSORS = 0.9, 1.1
_COLOURS = {True: SKY, False: ORANGE}  # of process() and of files alone

Table = tuple[str, list[str], list[list[str]]]  # title, header, rows


def write(timings: Sequence[Timing], scores: pd.DataFrame | None, folder: Path) -> list[Path]:
    """Write `latency.md`, `latency.csv` and `latency.png`, and return their paths."""
    paths = [folder / f"latency.{suffix}" for suffix in ("md", "csv", "png")]
    write_text(paths[0], markdown(timings, scores))
    write_csv(frame(timings, scores), paths[1], float_format="%.6g")
    save(boxes(timings), paths[2])
    return paths


def frame(timings: Sequence[Timing], scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a table with a row per timing: the call, times in ms, memory in bytes, and the scores of its file, if any.

    times_faster compares with the first call of process(), or with the first call of a file alone.
    """
    leaders = _leaders(timings)
    rows = []
    for timing in timings:
        call = timing.timed_call
        median, p95, p99 = np.percentile(timing.wall, (50, 95, 99))
        processor = np.median(timing.processor)
        rows.append(
            {
                "name": call.name,
                "call": call.call,
                "stft": call.stft,
                "hop_ms": call.hop_ms,
                "hops": timing.wall.size,
                "median_ms": median,
                "p95_ms": p95,
                "p99_ms": p99,
                "min_ms": timing.wall.min(),
                "max_ms": timing.wall.max(),
                "processor_ms": processor,
                "real_time_factor": processor / call.hop_ms,
                "times_faster": timing.times_faster(leaders[call.call == PROCESS]),
                "file_bytes": call.file_bytes or np.nan,
                "memory_growth_bytes": timing.growth,
                "processors": timing.processors,
            }
        )
    table = pd.DataFrame(rows)
    return table if scores is None else table.join(scores, on="name")


def _leaders(timings: Sequence[Timing]) -> dict[bool, Timing]:
    """Return the first timing of process() (True), and the first of a file alone (False)."""
    return {timing.timed_call.call == PROCESS: timing for timing in reversed(timings)}


def markdown(timings: Sequence[Timing], scores: pd.DataFrame | None = None) -> str:
    """Return the report in Markdown: times, scores, notes on what the numbers mean, and the figure."""
    parts = ["# Time per hop"]
    for title, header, rows in _tables(timings, scores):
        parts += [f"## {title}", markdown_table([name.replace("\n", " ") for name in header], rows)]
    parts += ["\n".join(f"- {note}" for note in notes(timings)), "![Times of all hops](latency.png)"]
    return "\n\n".join(parts) + "\n"


def terminal(timings: Sequence[Timing], scores: pd.DataFrame | None = None) -> list[rich.table.Table]:
    """Return the tables of the report for `rich.print`."""
    return [
        rich_table(title, header, [[_shortened(name), *cells] for name, *cells in rows])
        for title, header, rows in _tables(timings, scores)
    ]


def notes(timings: Sequence[Timing]) -> list[str]:
    """Return notes on what the numbers mean, and which of them not to trust."""
    seconds = ROUND * len(timings[0].wall)
    lines = [
        f"{seconds:g} s of audio each, in turns of {ROUND:g} s, on one thread: compare within one run only. The first "
        f"round and the first {WARM_UP} hops of every turn are left out.",
        f"{PROCESS}: a hop of samples in, a hop out, as a user has it. run(): onnxruntime's session.run() with states "
        "handed on as arrays, as scripts beside published files do. The others: the same step by this framework's "
        "runtimes, in ONNX Runtime with I/O binding.",
        "median, p95, p99, least: by the clock on the wall. CPU: median of the processor's time, which other programs "
        "do not lengthen; RTF: that / hop; × faster: median over rounds of its ratio to the first row's in the same "
        "round, per second of audio. memory: by which the process grew.",
    ]
    lines += [
        f"{_title(timing.timed_call)}: kept {timing.processors:.1f} processors busy, not one"
        for timing in timings
        if timing.processors > _MOST_PROCESSORS
    ]
    least = min(timing.processors for timing in timings)
    if least < _LEAST_PROCESSORS:
        lines.append(
            f"This machine had other things to do: the processor was ours for {100 * least:.0f} % of the time. Trust "
            "processor times and ratios more than p95 and p99."
        )
    return lines


def _tables(timings: Sequence[Timing], scores: pd.DataFrame | None) -> list[Table]:
    numbers, leaders = frame(timings), _leaders(timings)
    whole = numbers["call"] == PROCESS
    tables = [(f"{PROCESS}, × faster than {leaders[True].timed_call.name}", *_times(numbers[whole], "stft"))]
    if False in leaders:
        leader = _title(leaders[False].timed_call)
        tables.append(
            (f"the file alone, without numpy's STFT, × faster than {leader}", *_times(numbers[~whole], "call"))
        )
    if scores is not None:
        tables.append(("on noisy and clean pairs", *_quality(scores)))
    return tables


def _times(numbers: pd.DataFrame, kind: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table of times. kind: the column that tells the rows apart, stft or call."""
    milliseconds = ("median_ms", "p95_ms", "p99_ms", "min_ms", "processor_ms")
    rows = [
        [
            row["name"],
            row[kind],
            *(f"{row[key]:#.3g}".rstrip(".") for key in milliseconds),
            f"{row['real_time_factor']:.4f}",
            f"{row['times_faster']:.2f}",
            *(_number(row[key] / 1024, ",.0f") for key in ("file_bytes", "memory_growth_bytes")),
        ]
        for _, row in numbers.iterrows()
    ]
    times = ["median\nms", "p95\nms", "p99\nms", "least\nms", "CPU\nms", "RTF", "×\nfaster"]
    return ["", {"stft": "STFT", "call": "by"}[kind], *times, "file\nKiB", "memory\n+ KiB"], rows


def _quality(scores: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    header = ["", "largest difference\nfrom PyTorch", *(METRICS[metric].label for metric in SCORES)]
    rows = [
        [
            name,
            _number(row["max_error"], ".1e"),
            *(_number(row[metric], f".{METRICS[metric].digits + 1}f") for metric in SCORES),
        ]
        for name, row in scores.iterrows()
    ]
    return header, rows


def _number(value: float, shape: str) -> str:
    return _NONE if np.isnan(value) else f"{value:{shape}}"


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH // 2]}…{name[1 - _NAME_LENGTH // 2 :]}"


def _title(call: TimedCall) -> str:
    return call.name if call.call == PROCESS else f"{call.name}, {call.call}"


def boxes(timings: Sequence[Timing]) -> Figure:
    """Draw a box plot of the wall-clock times of every call on a logarithmic axis, with processor times and the hop."""
    statistics = []
    for timing in timings:
        low, *quartiles, high = np.percentile(timing.wall, (0, 25, 50, 75, 99))
        drawn = dict(zip(("whislo", "q1", "med", "q3", "whishi"), (low, *quartiles, high)))
        statistics.append(drawn | {"fliers": [timing.wall.max()], "label": _title(timing.timed_call)})
    positions = np.arange(len(timings))
    with matplotlib.rc_context(OPEN_STYLE):
        figure = Figure(figsize=(9, 1.4 + 0.3 * len(timings)), dpi=150, layout="constrained")
        panel = figure.subplots()
        drawn = panel.bxp(
            statistics,
            positions=positions,
            vert=False,
            widths=0.6,
            patch_artist=True,
            medianprops={"color": "black"},
            flierprops={"marker": ".", "markersize": 4, "markeredgecolor": BLUE},
        )
        for box, timing in zip(drawn["boxes"], timings):
            box.set(facecolor=_COLOURS[timing.timed_call.call == PROCESS], linewidth=0.6)
        processor = [np.median(timing.processor) for timing in timings]
        diamond = {"marker": "D", "s": 12, "color": "white", "edgecolor": "black", "linewidth": 0.7}
        diamonds = panel.scatter(processor, positions, label="processor time, median", zorder=4, **diamond)
        for hop_ms in {timing.timed_call.hop_ms for timing in timings}:
            panel.axvline(hop_ms, color=VERMILLION, linewidth=0.8, linestyle="--")
            label = panel.text(
                hop_ms, 1.01, f"hop {hop_ms:g} ms", transform=panel.get_xaxis_transform(), color=VERMILLION
            )
            label.set(ha="center", fontsize=8)
        boxed = {timing.timed_call.call == PROCESS for timing in timings}
        labels = {True: PROCESS, False: "the file alone"}
        handles = [Patch(facecolor=_COLOURS[kind], edgecolor="black", label=labels[kind]) for kind in sorted(boxed)]
        handles.append(Line2D([], [], color=VERMILLION, linestyle="--", label="duration of a hop"))
        figure.legend(handles=[*handles, diamonds], loc="outside upper left", ncols=4, frameon=False, fontsize=8)
        panel.set(xscale="log", xlabel="time for a hop [ms]: quartiles, least to 99th percentile, and the longest")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        panel.invert_yaxis()
        panel.grid(True, axis="x", color=GRID, linewidth=0.6)
        panel.set_axisbelow(True)
    return figure
