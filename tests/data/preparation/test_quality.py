import numpy as np
import pytest

from gtcrn.data import audio
from gtcrn.data.manifest import AudioFile, facts_of
from gtcrn.data.mixing import active, low_pass
from gtcrn.data.preparation.quality import measure


@pytest.fixture
def quality(tmp_path):
    """Return quality(wave, rate) -> Quality of a wave that is written to a file of 16 bits and read back."""

    def of(wave, rate):
        audio.write(tmp_path / "wave.wav", wave.astype(np.float32), rate)
        facts = facts_of(tmp_path / "wave.wav")
        return measure(AudioFile(tmp_path / "wave.wav", speaker="", **facts))

    return of


SPEECH = [
    "vctk_demand_mini/clean/p287_003.wav",
    "fullband_mini/speech/p234_003.wav",
    "dns_mini/clean/clean_fileid_0.wav",
]
SNRS = [0, 5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("noise", [None, "fullband_mini/noise/ch08_sm006.wav"], ids=["white", "DEMAND"])
@pytest.mark.parametrize("speech", SPEECH)
def test_the_snr_of_added_noise_is_found(quality, recordings, speech, noise):
    rate = 16000
    wave = audio.load(recordings / speech, rate)
    added = np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    if noise:
        added = np.resize(low_cut(audio.load(recordings / noise, rate), rate), len(wave))
    where = active(wave, rate)
    level = np.mean(low_cut(wave, rate)[where] ** 2) / np.mean(added**2)
    found = []
    for snr in SNRS:
        mixture = wave + added * np.sqrt(level * 10 ** (-snr / 10))
        found.append(quality(0.9 * mixture / np.abs(mixture).max(), rate).snr)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[:5], SNRS[:5], atol=3)
    np.testing.assert_allclose(found[5:], SNRS[5:], atol=5)  # the recordings' own noise is at 32 to 36 dB
    assert quality(wave, rate).snr > found[-1]


def low_cut(wave, rate):
    """Return a wave without its content below 80 Hz, which is neither speech nor in the band of the measure."""
    return wave - low_pass(wave, 80, rate)


@pytest.mark.parametrize("cut", [3400, 4000, 5500])
@pytest.mark.parametrize("speech", SPEECH)
def test_the_bandwidth_is_found(quality, recordings, speech, cut):
    wave, rate = audio.read(recordings / speech)
    whole, filtered = quality(wave, rate).bandwidth, quality(low_pass(wave, cut, rate), rate).bandwidth
    telephone = audio.resample(audio.resample(wave, rate, 2 * cut), 2 * cut, rate)
    assert abs(filtered - cut) < 0.1 * cut
    assert abs(quality(telephone, rate).bandwidth - cut) < 0.1 * cut
    assert 0.94 * rate / 2 < whole <= rate / 2


@pytest.mark.parametrize("speech", SPEECH)
def test_clipping_is_found_at_any_level(quality, recordings, speech):
    wave, rate = audio.read(recordings / speech)
    assert quality(wave, rate).clipping == 0
    loud = 3 * wave / np.abs(wave).max()
    expected = np.mean(np.abs(loud) >= 1)
    for level in (1, 0.3):
        assert quality(level * np.clip(loud, -1, 1), rate).clipping == pytest.approx(expected, rel=0.3)


def test_silence_is_found(quality, recordings):
    wave, rate = audio.read(recordings / SPEECH[2])
    before = quality(wave, rate)
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(len(wave))
    after = quality(np.concatenate([wave, hiss]), rate)
    assert after.silence == pytest.approx((1 + before.silence) / 2, abs=0.02)
    padded = quality(np.concatenate([wave, np.zeros(len(wave))]), rate)
    assert padded.silence == pytest.approx((1 + before.silence) / 2, abs=0.02)
    assert padded.snr == pytest.approx(before.snr, abs=0.5)  # digital silence is no low noise floor


@pytest.mark.parametrize("wave", [np.full(50, 0.1), np.sin(np.arange(32000)), 1e-3 * np.ones(32000)])
def test_what_is_no_speech_has_numbers_too(quality, wave):
    found = quality(wave, 16000)
    assert np.isfinite([found.snr, found.clipping, found.silence, found.bandwidth]).all()
    assert found.snr < 0
