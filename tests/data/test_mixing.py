"""Mixtures of real recordings have the SNR, level, room and target that the recipe states."""

from math import inf, isnan

import numpy as np
import pytest
import scipy.signal

from gtcrn.data import audio
from gtcrn.data.mixing import Recipe, active, in_room, low_pass, mix, rms
from gtcrn.errors import UserError

RATE = 16000


@pytest.fixture
def speech(recordings):
    return audio.load(recordings / "dns_mini/extra_clean/LJ001-0001.wav", RATE, 0, 4 * RATE)


@pytest.fixture
def noise(recordings):
    return audio.load(recordings / "dns_mini/noise/noise_fileid_0.wav", RATE, 0, 4 * RATE)


@pytest.fixture
def rirs(recordings):
    return [audio.read(path)[0] for path in sorted((recordings / "dns_mini/rir").glob("*.wav"))]


def decibels(ratio: float) -> float:
    return 10 * np.log10(ratio)


def snr_of(speech: np.ndarray, noise: np.ndarray) -> float:
    """Measure the SNR in another way, in which a frame 30 dB below the loudest 20 ms is a pause."""
    frames = speech[: len(speech) // 320 * 320].reshape(-1, 320).astype(float)
    energy = (frames**2).sum(1)
    where = energy > 10 ** (-30 / 10) * energy.max()
    return decibels(energy[where].sum() / (noise[: frames.size].reshape(-1, 320)[where].astype(float) ** 2).sum())


@pytest.mark.parametrize("snr", [-5.0, 0.0, 7.5, 20.0])
@pytest.mark.parametrize("target", ["dry", "early", "reverberant"])
def test_the_parts_sum_to_the_mixture_and_the_snr_is_that_requested(speech, noise, rirs, snr, target):
    recipe = Recipe(snr=(snr, snr), target=target)
    for rir in (None, *rirs):
        made = mix(speech, [noise], rir, RATE, recipe, np.random.default_rng(0))
        assert np.abs(made.noisy - made.clean - made.reverberation - made.noise).max() <= 1e-6
        wet = made.clean + made.reverberation
        where = active(wet, RATE)
        measured = decibels((wet[where] ** 2).sum(dtype=float) / (made.noise[where] ** 2).sum(dtype=float))
        assert measured == pytest.approx(snr, abs=0.1) and made.snr == snr
        if rir is None or target == "reverberant":
            assert not made.reverberation.any()
        assert made.target == ("" if rir is None else target)


def test_an_own_measure_of_activity_finds_nearly_the_same_snr(speech):
    """The choice of the pauses matters little for stationary noise."""
    noise = np.random.default_rng(0).normal(size=len(speech)).astype(np.float32)
    made = mix(speech, [noise], None, RATE, Recipe(snr=(10, 10)), np.random.default_rng(0))
    assert snr_of(made.clean, made.noise) == pytest.approx(10, abs=1)


def test_pauses_are_not_active(speech):
    padded = np.concatenate([np.zeros(2 * RATE, np.float32), speech, np.zeros(2 * RATE, np.float32)])
    padded += 1e-5 * np.random.default_rng(0).normal(size=len(padded)).astype(np.float32)
    where = active(padded, RATE)
    assert not where[: 2 * RATE - 320].any() and not where[-2 * RATE + 320 :].any()
    assert 0.4 < where[2 * RATE : -2 * RATE].mean() < 0.95
    noise = np.ones_like(padded)
    made = mix(padded, [noise], None, RATE, Recipe(snr=(5, 5)), np.random.default_rng(0))
    over_all = decibels(np.sum(made.clean**2) / np.sum(made.noise**2))
    assert over_all < 3  # the pauses, which hold noise only, don't count


@pytest.mark.parametrize("level", [-35.0, -25.0])
def test_the_level_is_that_of_the_mixture(speech, noise, level):
    made = mix(speech, [noise], None, RATE, Recipe(level=(level, level)), np.random.default_rng(0))
    assert decibels(np.mean(made.noisy.astype(float) ** 2)) == pytest.approx(level, abs=0.01)
    assert made.level == pytest.approx(level, abs=0.01)


def test_what_would_clip_is_scaled_down_as_a_whole(speech, noise):
    recipe = Recipe(level=(-3, -3), snr=(5, 5))
    made = mix(speech, [noise], None, RATE, recipe, np.random.default_rng(0))
    assert max(np.abs(made.noisy).max(), np.abs(made.clean).max()) == pytest.approx(0.99, abs=1e-5)
    assert made.level < -4
    where = active(made.clean, RATE)
    assert decibels(np.sum(made.clean[where] ** 2) / np.sum(made.noise[where] ** 2)) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("target", ["dry", "early", "reverberant"])
def test_the_target_is_in_time_with_the_speech_and_the_mixture(rirs, target):
    """They are aligned to the sample, whatever the delay of the direct path in the impulse response."""
    white = np.random.default_rng(0).normal(size=4 * RATE).astype(np.float32)  # its correlation is a single sample
    for rir in rirs:
        for delay in (0, 333):
            clean, rest = in_room(white, np.pad(-rir, (delay, 0)), target, 1600)
            for one, other in ((clean, white), (clean + rest, white), (clean, clean + rest)):
                correlation = scipy.signal.correlate(one, other, method="fft")
                assert correlation.argmax() == len(white) - 1


def test_early_is_the_first_part_of_the_impulse_response(speech, rirs):
    for rir in rirs:
        direct = np.abs(rir).argmax()
        rir = rir / rir[direct]
        clean, rest = in_room(speech, rir, "early", 800)
        for part, response in ((clean, rir[: direct + 801]), (clean + rest, rir)):
            expected = np.convolve(speech.astype(float), response)[direct : direct + len(speech)]
            assert np.abs(part - expected).max() < 1e-4 * np.abs(expected).max()
    dry, _ = in_room(speech, rirs[0], "dry", 800)
    np.testing.assert_array_equal(dry, speech)


def test_several_noises_are_equally_loud(speech, noise):
    tone = np.sin(2 * np.pi * 5000 * np.arange(len(speech)) / RATE).astype(np.float32)
    made = mix(speech, [noise, 100 * tone], None, RATE, Recipe(), np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(made.noise)) ** 2
    at_tone = spectrum[4 * 5000 - 40 : 4 * 5000 + 41].sum()
    assert at_tone / spectrum.sum() == pytest.approx(0.5, abs=0.05)


def test_noise_only_and_speech_only(speech, noise):
    rng = np.random.default_rng(0)
    quiet = mix(None, [noise], None, RATE, Recipe(), rng)
    assert quiet.snr == -inf and not quiet.clean.any() and np.array_equal(quiet.noisy, quiet.noise)
    alone = mix(speech, [], None, RATE, Recipe(), rng)
    assert alone.snr == inf and not alone.noise.any() and np.array_equal(alone.noisy, alone.clean)


def test_noise_that_pauses_with_the_speech_is_not_blown_up(speech):
    noise = np.zeros_like(speech)
    noise[~active(speech, RATE)] = 0.1
    made = mix(speech, [noise], None, RATE, Recipe(snr=(0, 0)), np.random.default_rng(0))
    assert np.isfinite(made.noisy).all()
    assert decibels(rms(made.clean) ** 2 / rms(made.noise) ** 2) > -35


def test_band_limiting_takes_the_band_from_mixture_and_target(speech, noise):
    recipe = Recipe(band_limit=1, band_limit_hz=(3000, 3000), snr=(0, 0))
    made = mix(speech, [noise], None, RATE, recipe, np.random.default_rng(0))
    frequency = np.fft.rfftfreq(len(speech), 1 / RATE)
    for wave in (made.noisy, made.clean, made.noise):
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        assert spectrum[frequency > 3200].sum() < 1e-9 * spectrum.sum()
    assert made.band_limit == 3000
    np.testing.assert_allclose(low_pass(speech, 7999, RATE)[500:-500], speech[500:-500], atol=2e-3)
    assert isnan(mix(speech, [noise], None, RATE, Recipe(), np.random.default_rng(0)).band_limit)


def test_coloration_filters_speech_and_noise_each_in_its_own_way(speech, noise):
    """Where neither is silent, the ratio of the spectra is that of a filter of second order, smooth and never 0."""
    plain, made = (
        mix(speech, [noise], None, RATE, Recipe(coloration=share, snr=(5, 5)), np.random.default_rng(1))
        for share in (0.0, 1.0)
    )
    responses = []
    for name in ("clean", "noise"):
        before, after = (scipy.signal.welch(getattr(item, name).astype(float), RATE)[1] for item in (plain, made))
        responses.append(10 * np.log10(after / before)[4:-4])
        assert np.ptp(responses[-1]) > 1 and np.abs(np.diff(responses[-1])).max() < 1
    assert np.abs(responses[0] - responses[1] - (responses[0] - responses[1]).mean()).max() > 1
    assert np.abs(made.noisy - made.clean - made.noise).max() <= 1e-6 and made.snr == 5


def test_targets_are_drawn_by_their_shares():
    recipe = Recipe(target={"dry": 1, "early": 3})
    rng = np.random.default_rng(0)
    drawn = [recipe.draw_target(rng) for _ in range(1000)]
    assert set(drawn) == {"dry", "early"} and 700 < drawn.count("early") < 800


@pytest.mark.parametrize(
    "wrong",
    [
        dict(snr=(5, -5)),
        dict(snr=5),
        dict(level=(-20, 3)),
        dict(reverb=1.5),
        dict(target="wet"),
        dict(target={"dry": 0}),
        dict(noises=(0, 1)),
        dict(noise_speed=(0, 1)),
        dict(coloration=2),
        dict(early_ms=-1),
        dict(noise_only=0.6, clean_only=0.6),
    ],
)
def test_a_wrong_recipe_is_named(wrong):
    with pytest.raises(UserError, match=f"data.recipe.*{list(wrong)[0]}"):
        Recipe(**wrong)
