"""task=evaluate: scores of a checkpoint on a corpus, or of finished audio with no model at all."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, tee
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import rich
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from gtcrn.data import audio
from gtcrn.data.dns_pairs import clean_halves
from gtcrn.data.folders import listed_lines, search
from gtcrn.data.speech import SpeechData
from gtcrn.dsp.attenuation import mixed, noisy_share
from gtcrn.errors import UserError, counted, printable
from gtcrn.files import fitting, write_text
from gtcrn.metrics import DNSMOS_METRICS, METRICS, WavePair, score_pairs
from gtcrn.metrics.pair import check_metrics
from gtcrn.models.enhancer import Enhancer
from gtcrn.plots import tables
from gtcrn.plots.figures import save, spectrogram_figure
from gtcrn.quantization.checkpoint import holds_integers, simulation, trained_network
from gtcrn.reports.streaming import enhance_in_chunks
from gtcrn.tasks.building import build_data, configure_torch, load_checkpoint, placed

if TYPE_CHECKING:  # importing it imports W&B
    from gtcrn.training.dashboard import Dashboard

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    folder = Path(cfg.run_dir)
    if cfg.enhanced or cfg.clean or cfg.pairs:
        if cfg.ckpt:
            raise UserError("ckpt= makes enhanced audio, enhanced= and pairs= name finished audio: leave one out")
        if cfg.attenuation_limit_db is not None:
            raise UserError(
                f"attenuation_limit_db={cfg.attenuation_limit_db}: limits what ckpt= takes away; leave it out with "
                "enhanced= and pairs=, which name finished audio"
            )
        check_metrics(cfg.metrics.test)
        pairs = finished_pairs(cfg)
        noisy = any(pair.noisy is not None for pair in pairs)
        metrics = computable(cfg.metrics.test, reference=bool(cfg.clean or cfg.pairs), noisy=noisy)
        scores = score_pairs(pairs, metrics, workers=cfg.metrics.workers)
        report(scores, folder, title="finished audio")
    else:
        if cfg.forget_every and cfg.device != "cpu":
            raise UserError(f"device={cfg.device}: forget_every= streams hop by hop, on a CPU alone; leave one out")
        if not cfg.ckpt:
            raise UserError("task=evaluate needs ckpt=…, e.g. ckpt=gtcrn-dns3, or enhanced=… (and clean=…)")
        checkpoint, enhancer = load_checkpoint(cfg)
        if holds_integers(checkpoint):
            log.info("ckpt=%s holds integers: these are scored, not the float model they come from", cfg.ckpt)
            enhancer = simulation(enhancer, trained_network(checkpoint, enhancer))
        enhancer = placed(enhancer, cfg.device)
        data = build_data(cfg, enhancer)
        data.setup((cfg.split,))
        for line in data.describe():
            log.info(line)
        evaluate_split(
            enhancer,
            data,
            cfg.split,
            cfg.metrics,
            folder,
            forget_every=cfg.forget_every,
            attenuation_limit_db=cfg.attenuation_limit_db,
        )
    log.info("scores.csv, scores.md and summary.json are in %s", folder)


def computable(metrics: Sequence[str], reference: bool, noisy: bool = True) -> list[str]:
    """Return the metrics to compute, without those that need signals that are missing.

    Without a clean reference, these are DNSMOS's if none that is named can do without one.

    Raises UserError for an unknown metric, one whose package is missing, or if all need noisy signals.
    """
    check_metrics(metrics)
    if not noisy and (left_out := [name for name in metrics if METRICS[name].noisy]):
        if len(left_out) == len(metrics):
            raise UserError(f"metrics.test: {', '.join(left_out)} need the noisy signals too; give noisy=…")
        log.info("no noisy signals: left out %s", ", ".join(left_out))
        metrics = [name for name in metrics if not METRICS[name].noisy]
    if reference:
        return list(metrics)
    if left_out := [name for name in metrics if METRICS[name].reference]:
        log.info("no clean reference: left out %s", ", ".join(left_out))
    chosen = [name for name in metrics if not METRICS[name].reference] or list(DNSMOS_METRICS)
    check_metrics(chosen)
    return chosen


def evaluate_split(
    enhancer: Enhancer,
    data: SpeechData,
    split: str,
    metrics: DictConfig,
    folder: Path,
    dashboard: Dashboard | None = None,
    forget_every: int | None = None,
    attenuation_limit_db: float | None = None,
) -> dict[str, float]:
    """Enhance every file of a split, score noisy and enhanced audio, and write audio and scores to the folder.

    The dashboard, if there is one, gets them too. forget_every: hops of a stream after which its state is cleared.
    attenuation_limit_db: the most that is taken away, in dB.

    Returns the means, `{noisy,enhanced,improvement}_<metric>`.
    """
    chosen = computable(metrics.test, reference="clean" in data.dataset(split)[0])
    files = len(data.dataset(split))
    count = min(metrics.test_files or files, files)
    share = noisy_share(attenuation_limit_db)
    made, kept = tee(enhanced_pairs(enhancer, data, split, folder / "enhanced", count, forget_every, share))
    scores = score_pairs(made, chosen, enhancer.sample_rate, metrics.workers, count=count)
    pairs = list(kept)
    draw_examples(pairs, scores, enhancer.sample_rate, folder)
    if dashboard:
        dashboard.log_scores(scores, pairs, enhancer.sample_rate)
    scored = counted(files, "file") if count == files else f"the first {count} of {counted(files, 'file')}"
    title = f"{data.title(split)}: {scored}, padding={enhancer.padding}"
    if attenuation_limit_db is not None:
        title += f", attenuation_limit_db={attenuation_limit_db:g}"
    return report(scores, folder, title, tested_on=data.title(split))


@torch.no_grad()
def enhanced_pairs(
    enhancer: Enhancer,
    data: SpeechData,
    split: str,
    folder: Path,
    count: int,
    forget_every: int | None = None,
    share: float = 0.0,
) -> Iterator[WavePair]:
    """Yield the pairs of a split as they are enhanced, and write their audio beside the folder of the enhanced files.

    share: of the noisy signal that is mixed into the enhanced one.
    """
    device = next(enhancer.parameters()).device
    loader = data.test_loader() if split == "test" else data.validation_loader()
    for item in tqdm(islice(loader, count), "enhancing", count, unit="file", disable=None):
        name = fitting(*item["name"])
        if forget_every:
            enhanced = enhance_in_chunks(enhancer, item["noisy"][0].numpy(), forget_every, forget=True).aligned
        else:
            enhanced = enhancer(item["noisy"].to(device))[0][0].cpu().numpy()
        inputs = {role: item[role][0].numpy() for role in ("noisy", "clean") if role in item}
        if share:
            enhanced = mixed(inputs["noisy"], enhanced, share)
        audio.write(folder / f"{name}.wav", enhanced, enhancer.sample_rate, subtype="FLOAT")
        for role, wave in inputs.items():  # to listen to: mixtures made on the fly are in no file
            audio.write(folder.parent / role / f"{name}.flac", wave, enhancer.sample_rate)
        info: dict[str, object] = {"snr": float(item["snr"])}
        if kind := item.get("noise", [""])[0]:
            info["noise"] = kind
        yield WavePair(name, inputs.get("clean"), enhanced, inputs["noisy"], info=info)


def finished_pairs(cfg: DictConfig) -> list[WavePair]:
    """Return the files of `enhanced=` with those of `clean=` and `noisy=`, or the lines of `pairs=`.

    Files belong together by relative name, or by the number N of the DNS Challenge's `…_fileid_N`.
    """
    if cfg.pairs:
        return _listed_pairs(Path(cfg.pairs))
    if not cfg.enhanced:
        raise UserError(f"clean={cfg.clean} needs enhanced=…, a folder (or file) of the same names")
    enhanced = _audio_in(Path(cfg.enhanced), "enhanced")
    found = {role: _audio_in(Path(cfg[role]), role) if cfg[role] else {} for role in ("clean", "noisy")}
    clean, noisy = (_matched(enhanced, files, f"{role}={cfg[role]}") for role, files in found.items())
    used = set(clean.values())
    if left_over := sorted(printable(name) for name, path in found["clean"].items() if path not in used):
        pairless = counted(len(left_over), "clean file has", "clean files have")
        log.warning("%s no enhanced one and will not be scored: %s", pairless, ", ".join(left_over[:5]))
    return [
        WavePair(printable(name or path.stem), clean=clean.get(name), enhanced=path, noisy=noisy.get(name))
        for name, path in sorted(enhanced.items())
    ]


def _listed_pairs(listed: Path) -> list[WavePair]:
    """Return the pairs of a list, whose paths are relative to it, separated by spaces or tabs, and may be quoted."""
    if not listed.is_file():
        raise UserError(f"pairs={listed}: no such file; it has one line per pair: enhanced clean [noisy]")
    pairs = []
    for line in listed_lines(listed):
        reader = csv.reader([line], delimiter="\t" if "\t" in line else " ", skipinitialspace=True)
        paths = [listed.parent / os.path.expanduser(path) for path in next(reader) if path]
        if len(paths) not in (2, 3):
            raise UserError(
                f"{listed}: expected 'enhanced clean [noisy]' in a line, got {len(paths)} paths in: {line}; paths with "
                'spaces stand between "quotes", or all between tabs'
            )
        enhanced, clean, *noisy = paths
        pairs.append(WavePair(printable(enhanced.stem), clean, enhanced, noisy[0] if noisy else None))
    if not pairs:
        raise UserError(f"pairs={listed}: holds no pairs")
    return pairs


def _matched(enhanced: dict[str, Path], files: dict[str, Path], option: str) -> dict[str, Path]:
    """Return {name: file that belongs to the enhanced file of this name}, {} if there are no files to match.

    Raises UserError if an enhanced file has no match, or two have the same.
    """
    if not files or enhanced.keys() <= files.keys():
        return {name: files[name] for name in enhanced if files}
    halves = clean_halves(map(str, enhanced.values()), map(str, files.values()))
    matched = {name: str(files[name]) if name in files else halves[str(path)] for name, path in enhanced.items()}
    if missing := sorted(name for name, half in matched.items() if half is None):
        raise UserError(f"{option}: {len(missing)} of the enhanced files have no match, e.g. {missing[0]}")
    counts = Counter(matched.values())
    for name, half in matched.items():
        if counts[half] > 1:
            raise UserError(f"{option}: {half} belongs to {name} and to another enhanced file; keep one")
    return {name: Path(half) for name, half in matched.items()}


def _audio_in(path: Path, key: str) -> dict[str, Path]:
    """Return {relative name without suffix: file}; a single file has the empty name, so that two single files match."""
    if path.is_file():
        return {"": path}
    if not path.is_dir():
        raise UserError(f"{key}={path}: no such file or folder")
    files: dict[str, Path] = {}
    found, unreadable = search(path)
    for folder, reason in unreadable.items():
        raise UserError(f"{key}={path}: {folder}: {reason}")
    for relative in found:
        name = os.path.splitext(relative)[0]
        if name in files:
            raise UserError(f"{key}={path}: {files[name].name} and {relative} have the same name; keep one")
        files[name] = path / relative
    if not files:
        raise UserError(f"{key}={path}: no audio files in this folder")
    return files


def draw_examples(pairs: list[WavePair], scores: pd.DataFrame, sample_rate: int, folder: Path) -> None:
    """Write spectrograms of the worst, the median and the best file by the first metric to the folder, each once."""
    column = next(column for column in scores if column.startswith("enhanced_"))
    metric = column.removeprefix("enhanced_")
    ranked = METRICS[metric].goodness(scores[column]).dropna().sort_values().index
    if not len(ranked):
        return
    # of one or two files, the later name stands
    chosen = {ranked[len(ranked) // 2]: "median", ranked[-1]: "best", ranked[0]: "worst"}
    for index, rank in chosen.items():
        pair = pairs[index]
        signals = pair.signals()
        waves = {role: signals[role] for role in ("noisy", "enhanced", "clean") if role in signals}
        figure = spectrogram_figure(
            waves,
            sample_rate,
            title=f"{pair.name} ({rank} {METRICS[metric].label})",
            scores=tables.score_texts(scores.loc[index]),
        )
        save(figure, folder / f"{rank}_{Path(fitting(pair.name)).name}.png", dpi=140)


def report(scores: pd.DataFrame, folder: Path, title: str, tested_on: str | None = None) -> dict[str, float]:
    """Print the tables, write scores.csv, scores.md and summary.json, and return the means."""
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_csv(scores, folder / "scores.csv", float_format="%.6g")
    write_text(folder / "scores.md", f"# {title}\n\n{tables.markdown(scores)}")
    for table in tables.terminal(scores, title):
        rich.print(table)
    summary = tables.summarise(scores)
    means = {
        f"{condition}_{metric}": float(row[condition])
        for metric, row in summary.iterrows()
        for condition in ("noisy", "enhanced", "improvement")
        if condition in row
    }
    write_text(folder / "summary.json", json.dumps(means | {"tested_on": tested_on}, indent=2))
    return means
