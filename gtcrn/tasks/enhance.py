"""task=enhance: denoise a file or a folder tree in constant memory."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from gtcrn.data import audio
from gtcrn.data.folders import search
from gtcrn.data.level import TOLERANCE, LevelMeter, level_of
from gtcrn.dsp.attenuation import mixed, noisy_share
from gtcrn.errors import Interrupted, UserError, counted, printable
from gtcrn.models.enhancer import Enhancer
from gtcrn.runtime.denoiser import Denoiser
from gtcrn.runtime.eager import EnhancerStep
from gtcrn.tasks.building import configure_torch, is_exported, load_float, placed, require

log = logging.getLogger(__name__)

BLOCK_SECONDS = 10  # of audio are read and streamed at a time
# a model that cannot stream gets segments of this length, each after the first with this much of its past
SEGMENT_SECONDS, CONTEXT_SECONDS = 120, 30
INTEGER_FULL_SCALE = 1 - 2**-15  # the largest sample that fits in 16 bits

Process = Callable[[np.ndarray], np.ndarray]  # a stream, (N, C) -> (N', C), which puts out whole hops


def run(cfg: DictConfig) -> None:
    configure_torch(cfg)
    source, target = Path(require(cfg, "input")), Path(require(cfg, "output"))
    model = open_model(cfg)
    normalise = wants_normalising(cfg, model)
    jobs, failures = find_jobs(source, target)
    if looks_ahead(model):
        log.info(
            "this model looks ahead and cannot stream: files over %d s are processed in overlapping segments",
            SEGMENT_SECONDS,
        )
    done = 0
    for path, destination in tqdm(jobs, "enhancing", unit="file", disable=None):
        try:
            gain = enhance_file(model, path, destination, normalise, cfg.attenuation_limit_db)
            done += 1
            if gain < 1:
                log.info("%s: lowered by %.2f dB so that nothing clips", printable(destination), -20 * np.log10(gain))
        except UserError as error:
            failures.append(str(error))
        except KeyboardInterrupt as stop:
            raise Interrupted.by(
                stop,
                f"interrupted: {done} of {len(jobs)} files are enhanced and whole in {target}, the others not begun",
            ) from None
    log.info("%d of %s enhanced into %s by ckpt=%s", done, counted(len(jobs), "file"), printable(target), cfg.ckpt)
    if failures:
        raise UserError(
            f"{counted(len(failures), 'file or folder', 'files or folders')} failed: " + "; ".join(failures)
        )


def open_model(cfg: DictConfig) -> Enhancer | Denoiser:
    """Return the model of `ckpt=`: an exported file in its own runtime, all else as a checkpoint in PyTorch."""
    return _open_denoiser(cfg) if is_exported(cfg) else _open_enhancer(cfg)


def _open_enhancer(cfg: DictConfig) -> Enhancer:
    enhancer = load_float(cfg)
    if enhancer.padding != "zeros" and not enhancer.total_lookahead():
        raise UserError(
            f"padding={enhancer.padding}: files are streamed, and a stream begins with zeros; set padding=zeros"
        )
    return placed(enhancer, cfg.device)


def _open_denoiser(cfg: DictConfig) -> Denoiser:
    for key, only in (("device", "cpu"), ("padding", "zeros")):
        if cfg[key] not in (only, None):
            raise UserError(f"{key}={cfg[key]}: exported files run with {key}={only} alone; leave it out")
    return Denoiser(cfg.ckpt)


def find_jobs(source: Path, target: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return (input, output) of every audio file, in the same tree of folders, and which folders can't be read."""
    unreadable: dict[str, str] = {}
    if source.is_file():
        into_folder = target.is_dir() or not target.suffix
        jobs = [(source, target / source.name if into_folder else target)]
    elif source.is_dir():
        files, unreadable = search(source, spared=target)
        if not files:
            raise UserError(f"input={source}: no audio files ({', '.join(audio.SUFFIXES)}) in this folder")
        jobs = [(source / name, target / name) for name in files]
    elif source.exists():
        raise UserError(f"input={source}: a pipe or device, and not a file or folder")
    else:
        raise UserError(f"input={source}: no such file or folder")
    for path, destination in jobs:
        if os.path.realpath(path) == os.path.realpath(destination):  # unlike Path.resolve it accepts circular links
            raise UserError(f"output={target}: would overwrite {path}; choose another folder")
    return jobs, [f"{source / name}: {reason}" for name, reason in unreadable.items()]


def wants_normalising(cfg: DictConfig, model: Enhancer | Denoiser) -> bool:
    """Return whether `level=` asks for normalising. Raises UserError if it does and the model's level is not known."""
    if cfg.level == "normalise" and model.input_level is None:
        raise UserError(
            f"level=normalise: ckpt={cfg.ckpt} does not say at which level its model was trained (published "
            "checkpoints, and the checkpoints and exports of this version do); leave level= out"
        )
    return cfg.level == "normalise"


def enhance_file(
    model: Enhancer | Denoiser,
    path: Path,
    destination: Path,
    normalise: bool = False,
    attenuation_limit_db: float | None = None,
) -> float:
    """Write the enhanced file, whole or not at all, with the input's format, rate, channels, length and tags.

    normalise: scale the input to the level that the model was trained at, and the output back. Without it, a level
    far from the trained one is logged as a warning.
    attenuation_limit_db: the most that is taken away, in dB; None for no limit.
    Returns the gain that kept the output from clipping, 1 if none was needed. Raises `UserError` naming the file if it
    can't be read or written, is empty, or holds samples that are not valid audio. Whether it can be written is checked
    before the model runs.
    """
    info, tags = audio.info(path), audio.tags_of(path)
    if not info.frames:
        raise UserError(f"{path}: holds no audio")
    with (
        audio.writing(
            destination, info.samplerate, info.channels, info.subtype, info.format, info.frames, tags
        ) as file,
        # the peak is known only at the end, so the samples wait in a temporary file: memory stays constant
        tempfile.TemporaryFile(dir=destination.parent) as waiting,
    ):
        peak = 0.0
        meter = LevelMeter(info.samplerate)
        louder = gain_to_trained(model, path, info) if normalise else 1.0
        blocks = enhanced_blocks(model, path, info, meter, louder)
        if attenuation_limit_db is not None:
            blocks = limited(blocks, path, noisy_share(attenuation_limit_db))
        for block in blocks:
            if not np.isfinite(block).all():
                raise UserError(f"{path}: the model made NaN or infinity of it, so nothing is written")
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            waiting.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
        waiting.seek(0)
        clips = file.subtype not in ("FLOAT", "DOUBLE") and peak > 1
        gain = INTEGER_FULL_SCALE / peak if clips else 1.0
        while samples := waiting.read(4 * info.channels * 65536):
            file.write(np.frombuffer(samples, np.float32).reshape(-1, info.channels) * np.float32(gain))
    expected = model.input_level
    if not normalise and expected is not None and TOLERANCE < abs(meter.level() - expected) < np.inf:
        log.warning(
            "%s: speech at %.0f dBFS, far from the %.0f dBFS that the model was trained at, so it may do much worse; "
            "try level=normalise",
            printable(path),
            meter.level(),
            expected,
        )
    return gain


def gain_to_trained(model: Enhancer | Denoiser, path: Path, info) -> float:
    """Return the gain that brings a file to the level that the model was trained at; 1 for silence."""
    level = level_of(read_blocks(path, info), info.samplerate)
    return 10 ** ((model.input_level - level) / 20) if level > -np.inf else 1.0


def enhanced_blocks(
    model: Enhancer | Denoiser, path: Path, info, meter: LevelMeter, louder: float
) -> Iterator[np.ndarray]:
    """Yield the enhanced file in blocks (N, C), aligned with the input and as long as it.

    meter: measures the level of the file's blocks. louder: gain before the model, which is undone after it.
    """
    inner_rate = model.sample_rate
    inner_frames = audio.resampled_length(info.frames, info.samplerate, inner_rate)
    blocks = resampled(measured(read_blocks(path, info), meter, louder), info.samplerate, inner_rate, info.channels)
    process = in_segments if looks_ahead(model) else streamed
    enhanced = trimmed(process(model, blocks, info.channels), inner_frames)
    for block in trimmed(resampled(enhanced, inner_rate, info.samplerate, info.channels), info.frames):
        yield block / np.float32(louder)


def limited(blocks: Iterable[np.ndarray], path: Path, share: float) -> Iterator[np.ndarray]:
    """Yield enhanced blocks (N, C), into which this share of the file, read a second time, is mixed."""
    with audio.reading(path) as file:
        for block in blocks:
            yield mixed(file.read(len(block), dtype="float32", always_2d=True), block, share)


def measured(blocks: Iterable[np.ndarray], meter: LevelMeter, louder: float) -> Iterator[np.ndarray]:
    """Yield each block multiplied by the gain `louder`, after the meter has measured it as it is."""
    for block in blocks:
        meter.add(block)
        yield np.float32(louder) * block


def looks_ahead(model: Enhancer | Denoiser) -> bool:
    return isinstance(model, Enhancer) and model.total_lookahead() > 0


def read_blocks(path: Path, info) -> Iterator[np.ndarray]:
    decoded = 0
    with audio.reading(path) as file:
        while len(block := file.read(BLOCK_SECONDS * info.samplerate, dtype="float32", always_2d=True)):
            peak = np.abs(block).max()
            if not np.isfinite(peak):
                raise UserError(f"{path}: holds samples that are not finite numbers; repair or leave out this file")
            if peak > audio.LOUDEST:
                raise UserError(
                    f"{path}: holds samples of {peak:.3g} times full scale; if they are 16-bit integers, divide them "
                    "by 32768, else repair or leave out this file"
                )
            decoded += len(block)
            yield block
    if decoded < info.frames:
        raise UserError(f"{path}: damaged: ends after {decoded} of the {info.frames} frames that it announces")


def resampled(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int, channels: int) -> Iterator[np.ndarray]:
    if from_rate == to_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def trimmed(blocks: Iterable[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """Yield exactly `frames` frames: what is longer is cut, what resampling has rounded away is filled with zeros."""
    missing, channels = frames, 1
    for block in blocks:
        channels = block.shape[1]
        yield block[:missing]
        missing -= len(block[:missing])
    if missing:
        yield np.zeros((missing, channels), np.float32)


def streamed(model: Enhancer | Denoiser, blocks: Iterable[np.ndarray], channels: int) -> Iterator[np.ndarray]:
    """Yield the output of a causal model with its delay removed; channels are independent streams."""
    process = (denoiser_stream if isinstance(model, Denoiser) else enhancer_stream)(model, channels)
    skip = model.latency
    flush = np.zeros((model.hop_length + model.latency, channels), np.float32)  # for the last hop and the delay
    for block in itertools.chain(blocks, [flush]):
        enhanced = process(block)
        yield enhanced[skip:]
        skip = max(0, skip - len(enhanced))


def enhancer_stream(enhancer: Enhancer, channels: int) -> Process:
    """Return a stream that runs all channels as one batch in PyTorch."""
    step, pending = EnhancerStep(enhancer, channels), np.zeros((0, channels), np.float32)

    def process(block: np.ndarray) -> np.ndarray:
        nonlocal pending
        samples = np.concatenate([pending, block])
        whole = len(samples) // enhancer.hop_length * enhancer.hop_length
        pending = samples[whole:]
        return step(samples[:whole].T).T if whole else samples[:0]

    return process


def denoiser_stream(denoiser: Denoiser, channels: int) -> Process:
    """Return a stream that runs one stream of another runtime for each channel."""
    streams = [denoiser.stream() for _ in range(channels)]
    return lambda block: np.stack([stream.process(wave) for stream, wave in zip(streams, block.T)], axis=1)


@torch.inference_mode()
def in_segments(enhancer: Enhancer, blocks: Iterable[np.ndarray], channels: int) -> Iterator[np.ndarray]:
    """Yield the output of a model that looks ahead, segment by segment, each with past and future context.

    The future context covers the whole look-ahead; recurrent layers see only the last seconds of the past.
    """
    device = next(enhancer.parameters()).device
    future = enhancer.latency + enhancer.hop_length
    past = CONTEXT_SECONDS * enhancer.sample_rate // enhancer.hop_length * enhancer.hop_length
    segment = SEGMENT_SECONDS * enhancer.sample_rate // enhancer.hop_length * enhancer.hop_length
    held, before = np.zeros((0, channels), np.float32), 0  # samples in memory, and how many of them are past context

    def enhance(samples: np.ndarray) -> np.ndarray:
        chunk = torch.from_numpy(np.ascontiguousarray(samples.T)).to(device)
        return enhancer(chunk)[0].T.cpu().numpy()

    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= before + segment + future:
            yield enhance(held[: before + segment + future])[before : before + segment]
            keep = min(past, before + segment)
            held, before = held[before + segment - keep :], keep
    if len(held) > before:
        yield enhance(held)[before:]
