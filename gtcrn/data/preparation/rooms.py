"""`prepare=rooms` simulates rooms, and writes an impulse response of each."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from math import exp, log, log10

import numpy as np
import pyarrow as pa
import scipy.signal

from gtcrn.data.preparation.files import audio_format, manifest_row, write_manifest
from gtcrn.data.preparation.jobs import NumberedItems, Product, WorkItem
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.seeding import generator
from gtcrn.errors import UserError

TABLE = "rooms.csv"
SOUND = 343.0  # m/s, as pyroomacoustics has it
TOLERANCE = 0.05  # the share of the RT60 drawn by which the measured one may differ from it
RANGES = ("rt60", "distance", "length", "width", "height")

_MIDDLE = (354.0, 1414.0)  # Hz, the octaves around 500 Hz and 1 kHz
_DECAY = (-5.0, -35.0)  # dB
_DIRECT = 0.0025  # s before and after the direct path
_LOWEST_RATE = 8000  # Hz
_LONGEST = 10.0  # s, for which a ray is traced
_PLACES = 10_000  # rooms drawn in search of one that the distance fits into
_ROOMS, _CORRECTIONS = 20, 5  # rooms that are tried, and simulations of each with another absorption
_REFLECTIONS = 3  # those up to this order are exact, and later ones traced as rays
_SCATTERING = 0.1  # share of the energy that a wall reflects into any direction
_MOST_ABSORPTION = 0.95


@dataclass(frozen=True)
class Places:
    """A room, (3,) in m along its length, width and height, and the source and the microphone in it, likewise."""

    size: np.ndarray
    source: np.ndarray
    microphone: np.ndarray


@dataclass(frozen=True)
class Simulation:
    """A simulated room, and what was measured in it.

    response: (N,), 1 on the direct path. rt60: s. drr: direct-to-reverberant ratio, dB. absorption: the share of the
    energy that walls absorb.
    """

    response: np.ndarray
    rt60: float
    drr: float
    absorption: float


class Rooms:
    """The step that simulates `items` rooms, `0000000.wav` and so on; `rooms.csv` tells what they are like.

    Each is a shoebox with one source and one microphone in it, and walls that all absorb alike. Air absorbs high
    frequencies. The direct path is the largest sample, as `gtcrn.data.mixing.in_room` needs it.

    Ranges [lowest, highest], from which values are drawn with equal probability: rt60 (s, see `measured_rt60`),
    distance from the source to the microphone (m), length, width and height of the room (m). The RT60 and the distance
    stay as drawn, and a room in which they can't be had is replaced by another.
    sample_rate: Hz. wall_distance: from any wall to the source or the microphone, at least, m. format, checksum: see
    `Resample`.

    Raises UserError if a setting is out of range, or pyroomacoustics is missing.
    """

    doing, unit = "simulating", "room"

    def __init__(
        self,
        items: int,
        sample_rate: int,
        rt60: tuple[float, float],
        distance: tuple[float, float],
        length: tuple[float, float],
        width: tuple[float, float],
        height: tuple[float, float],
        wall_distance: float,
        seed: int,
        format: str,
        checksum: bool,
    ):
        if not importlib.util.find_spec("pyroomacoustics"):
            raise UserError('prepare=rooms needs the package pyroomacoustics: pip install -e ".[rooms]"')
        if items < 1:
            raise UserError(f"prepare.items={items}: must be above 0")
        if sample_rate < _LOWEST_RATE:
            raise UserError(f"prepare.sample_rate={sample_rate}: must be at least {_LOWEST_RATE}")
        for key, (lowest, highest) in zip(RANGES, (rt60, distance, length, width, height)):
            if not 0 < lowest <= highest:
                raise UserError(f"prepare.{key}=[{lowest},{highest}]: give [lowest,highest], above 0")
        smallest, largest = np.array([length, width, height], float).T
        if not 0 < wall_distance < smallest.min() / 2:
            raise UserError(
                f"prepare.wall_distance={wall_distance}: must be above 0, and below half of the smallest room's "
                f"{smallest.min():g} m"
            )
        room = np.linalg.norm(largest - 2 * wall_distance)
        if distance[1] >= room:
            raise UserError(f"prepare.distance=[{distance[0]},{distance[1]}]: the largest room has only {room:.2f} m")
        shortest = eyring_exponent(smallest, 1.0) / -log(1 - _MOST_ABSORPTION)
        if not shortest <= rt60[0] <= rt60[1] <= _LONGEST:
            raise UserError(
                f"prepare.rt60=[{rt60[0]},{rt60[1]}]: must lie between {shortest:.2f} s, the least in the smallest "
                f"room, and {_LONGEST:g} s"
            )
        self.items, self.sample_rate, self.wall_distance, self.seed = items, sample_rate, wall_distance, seed
        self.rt60, self.distance, self.smallest, self.largest = rt60, distance, smallest, largest
        self.format, self.checksum = audio_format(format), checksum

    def work_items(self) -> NumberedItems:
        return NumberedItems(range(self.items))

    def make(self, item: WorkItem, output: OutputFolder) -> Product:
        rng = generator("room", self.seed, item.value)
        rt60, distance = rng.uniform(*self.rt60), rng.uniform(*self.distance)
        # a whole number of samples, so that all of the direct path is in one
        delay = max(1, round(distance * self.sample_rate / SOUND))
        distance = delay * SOUND / self.sample_rate
        places, simulation = self._simulated(rt60, distance, delay, rng)
        name = f"{item.name}{self.format.suffix}"
        with output.writing(name) as partial:
            self.format.write(partial, [simulation.response], self.sample_rate, 1)
            row = manifest_row(partial, name, "", self.checksum)
        facts = dict(zip(("length", "width", "height"), places.size.tolist()))
        facts |= {"distance": distance, "rt60": rt60, "rt60_measured": simulation.rt60}
        facts |= {"drr": simulation.drr, "absorption": simulation.absorption}
        return Product([name], {"manifest": [row], "rooms": [{"name": item.name, **facts}]})

    def finish(self, tables: dict[str, pa.Table], items: NumberedItems, output: OutputFolder) -> None:
        write_manifest(tables["manifest"], output)
        output.write_csv(TABLE, tables["rooms"].to_pandas())

    def _simulated(
        self, rt60: float, distance: float, delay: int, rng: np.random.Generator
    ) -> tuple[Places, Simulation]:
        for _ in range(_ROOMS):
            places = self._places(distance, rng)
            seed = int(rng.integers(2**63))
            if places and (simulation := self._with_rt60(places, rt60, delay, seed)):
                return places, simulation
        raise UserError(
            f"no room found with an RT60 of {rt60:.2f} s and {distance:.2f} m from the source to the microphone; "
            "change prepare.length, width and height, or rt60 and distance"
        )

    def _places(self, distance: float, rng: np.random.Generator) -> Places | None:
        """Return places so many m apart in a room that is drawn, or None if the distance fits into none."""
        sizes = rng.uniform(self.smallest, self.largest, (_PLACES, 3))
        lowest, highest = self.wall_distance, sizes - self.wall_distance
        microphones, directions = rng.uniform(lowest, highest), rng.standard_normal((_PLACES, 3))
        sources = microphones + distance * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        fitting = np.flatnonzero(((lowest <= sources) & (sources <= highest)).all(axis=1))
        if not len(fitting):
            return None
        first = fitting[0]
        return Places(sizes[first], sources[first], microphones[first])

    def _with_rt60(self, places: Places, rt60: float, delay: int, seed: int) -> Simulation | None:
        """Return the simulation with the absorption that gives this RT60; None if there is none, or a reflection is
        larger than the direct path.

        Theory gives the absorption for diffuse sound alone, so it is corrected by what is measured.
        """
        exponent = eyring_exponent(places.size, rt60)
        for _ in range(_CORRECTIONS):
            absorption = 1 - exp(-exponent)
            if absorption > _MOST_ABSORPTION:
                return None
            response = simulate(places, absorption, self.sample_rate, seed)
            measured = measured_rt60(response, delay, self.sample_rate)
            if abs(measured / rt60 - 1) <= TOLERANCE:
                if np.abs(response).argmax() != delay:
                    return None
                drr = direct_to_reverberant(response, delay, self.sample_rate)
                return Simulation(response / response[delay], measured, drr, absorption)
            exponent *= measured / rt60
        return None


def eyring_exponent(size: np.ndarray, rt60: float) -> float:
    """Return -ln(1 - absorption) of the walls of a room (3,), in m, that has this RT60 in s by Eyring's formula."""
    surface = 2 * size.prod() * (1 / size).sum()
    return 24 * log(10) * size.prod() / (SOUND * surface * rt60)


def simulate(places: Places, absorption: float, sample_rate: int, seed: int) -> np.ndarray:
    """Return the impulse response (N,), from the moment at which the source sounds.

    Early reflections are images of the source, later ones are rays (see `_REFLECTIONS`), which depend on the seed.
    """
    import pyroomacoustics  # here, since it is an extra

    pyroomacoustics.random.seed(seed)  # of the whole package, there is no other
    pyroomacoustics.constants.set("num_threads", 1)  # sums do not depend on the number of cores then
    room = pyroomacoustics.ShoeBox(
        places.size,
        fs=sample_rate,
        materials=pyroomacoustics.Material(absorption, _SCATTERING),
        max_order=_REFLECTIONS,
        ray_tracing=True,
        air_absorption=True,
    )
    room.add_source(places.source)
    room.add_microphone(places.microphone)
    room.compute_rir()
    return room.rir[0][0][pyroomacoustics.constants.get("frac_delay_length") // 2 :]


def measured_rt60(response: np.ndarray, delay: int, sample_rate: int) -> float:
    """Return the time in s in which the level falls by 60 dB, at 500 Hz to 1 kHz as in ISO 3382-1.

    It is measured on the decay from -5 to -35 dB of the backward integral (Schroeder 1965) of an impulse response (N,),
    without its direct path at sample `delay`.
    """
    late = response[delay + round(_DIRECT * sample_rate) + 1 :]
    middle = scipy.signal.butter(4, _MIDDLE, "bandpass", output="sos", fs=sample_rate)
    energy = np.cumsum(scipy.signal.sosfilt(middle, late)[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy[energy > 0] / energy[0])
    decay = np.flatnonzero((level <= _DECAY[0]) & (level >= _DECAY[1]))
    return float(-60 / np.polyfit(decay / sample_rate, level[decay], 1)[0])


def direct_to_reverberant(response: np.ndarray, delay: int, sample_rate: int) -> float:
    """Return the ratio in dB of the energy within 2.5 ms of the direct path, at sample `delay`, to all later one."""
    end = delay + round(_DIRECT * sample_rate) + 1
    direct, late = response[max(0, 2 * delay + 1 - end) : end], response[end:]
    return 10 * log10(np.vdot(direct, direct) / np.vdot(late, late))
