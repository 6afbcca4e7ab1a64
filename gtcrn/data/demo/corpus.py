"""The corpus of `data=demo`. It is made once, in less than a minute, and is the same on every run."""

import csv
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from gtcrn.data import audio
from gtcrn.data.cache import cache_folder, digest
from gtcrn.data.demo.noise import NOISES
from gtcrn.data.demo.sentences import SENTENCES
from gtcrn.data.demo.speech import TALKERS, require_espeak, utterance
from gtcrn.data.pairs import FilePair
from gtcrn.data.seeding import generator
from gtcrn.workers import begin

log = logging.getLogger(__name__)

SNR = (-5.0, 20.0)  # dB, over the whole file
LEVEL = (-35.0, -15.0)  # dBFS, RMS of the noisy file
SECONDS = {"train": (4.0, 4.0), "validation": (3.0, 5.0), "test": (3.0, 5.0)}


class Demo:
    """A synthetic corpus that gives the pairs of each split, `pairs("train")` and so on, and is made if need be.

    sizes: files per split. seed: of the corpus, not of the training, so that runs with several seeds can be compared.

    Voices and kinds of noise are disjoint between the splits. `folder` holds the files as `train/noisy`,
    `train/clean` ... with a `table.csv` on the content of each. It appears only when complete, and its name is a digest
    of all that determines its content, the source text of this package included.
    """

    def __init__(self, sizes: dict[str, int], seed: int, sample_rate: int, cache_dir: str | Path | None = None):
        self.sizes, self.seed, self.sample_rate = sizes, seed, sample_rate
        recipe = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
        self.folder = cache_folder(cache_dir, "demo") / digest(recipe, sorted(sizes.items()), seed, sample_rate)

    def tests_on(self) -> str:
        return "test"

    def pairs(self, split: str) -> list[FilePair]:
        if not self.folder.exists():
            with FileLock(self.folder.with_suffix(".lock")):  # another run may be making it right now
                if not self.folder.exists():
                    self._make()
        with open(self.folder / "table.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        noisy, clean = self.folder / split / "noisy", self.folder / split / "clean"
        return [
            FilePair(
                row["name"],
                noisy / f"{row['name']}.wav",
                clean / f"{row['name']}.wav",
                row["voice"],
                float(row["snr"]),
                noise=row["noise"],
            )
            for row in rows
        ]

    def _make(self) -> None:
        require_espeak()
        log.info("making the demo corpus once, in %s", self.folder)
        partial_folder = self.folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)  # left by a run that was killed
        try:
            self._fill(partial_folder)
            os.rename(partial_folder, self.folder)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)

    def _fill(self, folder: Path) -> None:
        """Write all pairs and the table into a folder."""
        jobs = [(split, index) for split, size in self.sizes.items() for index in range(size)]
        make = partial(_make_pairs, folder=folder, seed=self.seed, sample_rate=self.sample_rate)
        # espeak-ng can't be reset: its output depends on what it has spoken before. So every 16 files begin in a new
        # process, however many processes share the work. One that is killed ends the work, while a
        # multiprocessing.Pool would wait for it for ever.
        chunks = [jobs[first : first + 16] for first in range(0, len(jobs), 16)]
        with (
            ThreadPoolExecutor(os.cpu_count()) as threads,
            tqdm(total=len(jobs), desc="making the demo corpus", unit="file", disable=None) as bar,
        ):
            rows = []
            for made in threads.map(partial(_in_new_process, make), chunks):
                rows += made
                bar.update(len(made))
        with open(folder / "table.csv", "w", newline="") as file:
            table = csv.DictWriter(file, rows[0].keys())
            table.writeheader()
            table.writerows(rows)


def _in_new_process(make: Callable[[list], list], chunk: list) -> list:
    with ProcessPoolExecutor(1, initializer=begin) as process:
        return process.submit(make, chunk).result()


def _make_pairs(jobs: list[tuple[str, int]], **options) -> list[dict[str, object]]:
    return [_make_pair(job, **options) for job in jobs]


def _make_pair(job: tuple[str, int], folder: Path, seed: int, sample_rate: int) -> dict[str, object]:
    """Write one pair and return its row of the table. All choices depend on (seed, split, index) only."""
    split, index = job
    rng = generator(f"demo {split}", seed, index)
    frames = round(rng.uniform(*SECONDS[split]) * sample_rate)
    voice, language = str(rng.choice(TALKERS[split])), str(rng.choice(list(SENTENCES)))
    kind = list(NOISES[split])[index % len(NOISES[split])]
    snr, level = rng.uniform(*SNR), rng.uniform(*LEVEL)

    clean = utterance(rng, voice, language, frames, sample_rate)
    noise = NOISES[split][kind](rng, frames, sample_rate)
    noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2)) * 10 ** (-snr / 20)
    noisy = clean + noise
    gain = min(10 ** (level / 20) / np.sqrt(np.mean(noisy**2)), 0.99 / np.abs([noisy, clean]).max())

    name = f"{voice}_{index:04d}"
    for half, wave in (("noisy", noisy), ("clean", clean)):
        audio.write(folder / split / half / f"{name}.wav", gain * wave, sample_rate)
    level = 20 * np.log10(gain * np.sqrt(np.mean(noisy**2)))  # lower than drawn where peaks would clip
    return {
        "split": split,
        "name": name,
        "voice": voice,
        "language": language,
        "noise": kind,
        "snr": f"{snr:.2f}",
        "level": f"{level:.1f}",
        "seconds": f"{frames / sample_rate:.2f}",
    }
