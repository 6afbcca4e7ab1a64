import numpy as np
import pandas as pd
import pytest
import soundfile

from gtcrn.data.manifest import open_manifest
from gtcrn.data.preparation import rooms
from gtcrn.data.preparation.jobs import run_job
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.preparation.rooms import SOUND, TOLERANCE, Rooms, direct_to_reverberant, measured_rt60
from gtcrn.errors import UserError

SETTINGS = {
    "items": 3,
    "sample_rate": 16000,
    "rt60": (0.2, 0.5),
    "distance": (0.3, 3.0),
    "length": (3.0, 6.0),
    "width": (3.0, 5.0),
    "height": (2.4, 3.0),
    "wall_distance": 0.5,
    "seed": 1,
    "format": "float",
    "checksum": True,
}


@pytest.fixture
def step():
    """Return step(**settings) -> Rooms."""
    pytest.importorskip("pyroomacoustics", reason="needs the extra rooms")
    return lambda **settings: Rooms(**SETTINGS | settings)


def made(step, folder, items=slice(None)):
    output = OutputFolder(folder)
    with output.locked():
        return run_job(step, step.work_items()[items], output, workers=1)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_rooms_are_as_drawn(step, tmp_path, rate):
    made(step(sample_rate=rate), tmp_path / "rooms")
    table = pd.read_csv(tmp_path / "rooms" / "rooms.csv", dtype={"name": str})
    assert table["name"].tolist() == ["0000000", "0000001", "0000002"]
    for key in ("rt60", "distance", "length", "width", "height"):
        assert table[key].between(*SETTINGS[key]).all()
    for room in table.itertuples():
        response, found = soundfile.read(tmp_path / "rooms" / f"{room.name}.wav")
        delay = round(room.distance / SOUND * rate)
        assert found == rate and abs(room.distance / SOUND * rate - delay) < 0.01
        assert np.abs(response).argmax() == delay and response[delay] == 1
        assert measured_rt60(response, delay, rate) == pytest.approx(room.rt60, rel=TOLERANCE + 0.001)
        assert measured_rt60(response, delay, rate) == pytest.approx(room.rt60_measured, rel=0.001)
        assert direct_to_reverberant(response, delay, rate) == pytest.approx(room.drr, abs=0.01)
    assert [file.path.name for file in open_manifest(tmp_path / "rooms", "data.rir", None)] == [
        f"{name}.wav" for name in table["name"]
    ]


def test_a_room_depends_on_its_number_and_seed_alone(step, tmp_path):
    made(step(), tmp_path / "all")
    made(step(items=5), tmp_path / "one", slice(1, 2))
    made(step(seed=2), tmp_path / "other", slice(1, 2))
    one = (tmp_path / "one" / "0000001.wav").read_bytes()
    assert (tmp_path / "all" / "0000001.wav").read_bytes() == one
    assert (tmp_path / "other" / "0000001.wav").read_bytes() != one


def test_a_reflection_larger_than_the_direct_path_makes_another_room(step, tmp_path, monkeypatch):
    simulate, sizes = rooms.simulate, []

    def with_echo(places, *others):
        response = simulate(places, *others)
        sizes.append(places.size.tolist())
        if sizes[0] == sizes[-1]:
            response[len(response) // 50] = 2 * np.abs(response).max()
        return response

    monkeypatch.setattr(rooms, "simulate", with_echo)
    made(step(items=1), tmp_path / "rooms")
    assert pd.read_csv(tmp_path / "rooms" / "rooms.csv")["length"][0] == pytest.approx(sizes[-1][0], rel=1e-4)
    assert sizes[0] != sizes[-1]


def test_an_rt60_that_no_room_has_is_told(step, tmp_path):
    large = {"length": (9.0, 10.0), "width": (8.0, 8.0), "height": (4.0, 4.0)}
    with pytest.raises(UserError, match=r"of use, e.g. item 0: no room found with an RT60 of 0.06 s and .* m"):
        made(step(items=1, rt60=(0.06, 0.06), **large), tmp_path / "rooms")


@pytest.mark.parametrize("rt60", [0.2, 1.0])
def test_measures_of_a_known_decay(rt60):
    rate, delay = 16000, 100
    time = np.arange(rate) / rate
    late = np.random.default_rng(0).standard_normal(rate) * 10 ** (-3 * time / rt60)
    late[:41] = 0  # within 2.5 ms it would be direct sound
    response = np.concatenate([np.zeros(delay), late])
    response[delay] = np.sqrt(np.sum(late**2)) * 10 ** (6 / 20)
    assert measured_rt60(response, delay, rate) == pytest.approx(rt60, rel=0.05)
    assert direct_to_reverberant(response, delay, rate) == pytest.approx(6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 0}, "prepare.items=0: must be above 0"),
        ({"sample_rate": 4000}, "prepare.sample_rate=4000: must be at least 8000"),
        ({"rt60": (0.5, 0.2)}, r"prepare.rt60=\[0.5,0.2\]: give \[lowest,highest\]"),
        ({"rt60": (0.01, 0.2)}, r"prepare.rt60=\[0.01,0.2\]: must lie between 0.02 s, the least in the smallest room"),
        ({"distance": (1, 9)}, r"prepare.distance=\[1,9\]: the largest room has only 6.71 m"),
        ({"wall_distance": 1.2}, "prepare.wall_distance=1.2: must be above 0, and below half of the smallest .* 2.4 m"),
        ({"format": "mp3"}, "prepare.format=mp3 is not one of flac, wav, float"),
    ],
)
def test_mistakes(step, settings, message):
    with pytest.raises(UserError, match=message):
        step(**settings)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package pyroomacoustics: pip install -e .*\[rooms\]"):
        Rooms(**SETTINGS)
