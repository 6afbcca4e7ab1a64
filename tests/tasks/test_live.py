"""task=live with a simulated sound card: its calls, losses, failures and end."""

import io
import os
import signal
import sys
import threading
import time
import types
from functools import partial

import numpy as np
import pytest
from fixtures.commands import compose

from gtcrn.errors import UserError
from gtcrn.runtime.framing import STFTStep, Stream
from gtcrn.runtime.resampling import Resampled
from gtcrn.tasks import live
from gtcrn.tasks.live import Callback, choose, control

RATE, HOP = 16000, 256
FINE = types.SimpleNamespace(input_overflow=False, output_underflow=False)
LOST = types.SimpleNamespace(input_overflow=True, output_underflow=True)


class Half:
    """A step that attenuates by 6 dB."""

    def __call__(self, x):
        return x / 2

    def reset(self):
        pass


class Failing(Half):
    """A step that fails at a loud hop."""

    def __call__(self, x):
        if np.abs(x).max() > 0.99:
            raise RuntimeError("too loud")
        return x / 2


def make(step=None, block_length=1):
    return Stream(step or Half(), RATE, HOP, 0, block_length)


def call(callback, wave, lengths, status=FINE, channels=2):
    """Pass (N,) through the callback block by block, as a sound card does, and return (N, channels)."""
    outputs = []
    for block in np.split(wave, np.cumsum(lengths)[:-1]):
        out = np.full((len(block), channels), np.nan, np.float32)
        callback(np.stack([block, -block], axis=1), out, len(block), None, status)
        outputs.append(out)
    return np.concatenate(outputs)


@pytest.fixture
def wave():
    return np.random.default_rng(0).uniform(-0.5, 0.5, 5000).astype(np.float32)


ODD = (1, 333, 256, 0, 1000, 17, 3393)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_blocks_of_odd_sizes(wave, channels):
    callback = Callback(make())
    output = call(callback, wave, ODD, channels=channels)
    delay = callback.stream.latency
    assert delay == HOP - 1
    np.testing.assert_array_equal(output[delay:], np.repeat(wave[:-delay, None] / 2, channels, axis=1))
    assert (callback.blocks, callback.frames, callback.failures) == (len(ODD), 5000, 0)


@pytest.mark.parametrize("rate", [8000, 32000, 44100, 48000])
def test_another_rate_is_later_by_what_it_says(rate):
    def tone(times):
        return (0.3 * np.sin(2 * np.pi * 440 * times) + 0.3 * np.sin(2 * np.pi * 2500 * times)).astype(np.float32)

    samples = np.arange(rate)
    callback = Callback(Resampled(Stream(STFTStep(512, HOP, Half()), RATE, HOP, 256), rate))
    delay = callback.stream.latency
    exact = delay + 256 * rate / RATE - round(256 * rate / RATE)  # it is told in whole samples
    blocks = (rate // 100,) * 50 + (1, 0, 77, rate // 2 - 78)
    for _ in range(2):
        output = call(callback, tone(samples / rate), blocks, channels=1)[:, 0]
        middle = slice(rate // 10, -rate // 10)
        np.testing.assert_allclose(output[middle], tone((samples - exact) / rate)[middle] / 2, atol=1e-4)
        assert delay / rate < 0.016 + 0.0225
        callback.stream.reset()
    assert callback.failures == 0


@pytest.mark.parametrize("rate", [11025, 44100, 44056, 96000])
def test_another_rate_never_runs_short(rate):
    stream = Resampled(Stream(Half(), RATE, HOP, 0), rate)
    for length in (round(HOP * rate / RATE), 64, 1, 441):
        block = np.zeros(length, np.float32)
        assert {len(stream.process(block)) for _ in range(2 * rate // max(length, 100))} == {length}


def test_what_would_fold_back_is_gone():
    times = np.arange(48000) / 48000
    stream = Resampled(Stream(Half(), RATE, HOP, 0), 48000)
    for frequency, lowest in ((1000, 0.3), (9000, 0), (15000, 0), (23000, 0)):
        output = stream.process(np.sin(2 * np.pi * frequency * times).astype(np.float32))[5000:]
        assert lowest <= np.sqrt(np.mean(output**2)) < (0.36 if lowest else 1e-4)
        stream.reset()


def test_losses_are_counted_and_the_sound_goes_on(wave):
    callback = Callback(make(block_length=100))
    call(callback, wave, (100,) * 50, LOST)
    output = call(callback, wave, (100,) * 50)
    assert (callback.overruns, callback.underruns) == (50, 50)
    delay = callback.stream.latency
    np.testing.assert_array_equal(output[delay:, 0], wave[:-delay] / 2)
    assert "overruns 50, underruns 50, failures 0" in callback.summary()


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_a_failure_passes_the_sound_on_and_begins_anew(wave, rate):
    stream = make(Failing(), 100)
    callback = Callback(stream if rate == RATE else Resampled(make(Failing(), None), rate))
    loud = np.where(np.arange(100) < 50, 1, 0.999).astype(np.float32)
    call(callback, np.resize(loud, 2000), (100,) * 20)
    assert callback.failures and callback.failure == "RuntimeError: too loud"
    failures = callback.failures
    output = call(callback, 0 * wave, (100,) * 50)
    assert np.isfinite(output).all() and callback.failures - failures <= 1
    assert f"failures {callback.failures} (the last: RuntimeError: too loud)" in callback.summary()


def test_blocks_that_do_not_fit_are_passed_on(wave):
    callback = Callback(make(block_length=256))
    np.testing.assert_array_equal(call(callback, wave[:100], (100,))[:, 0], wave[:100])
    assert "block of 100 samples" in callback.failure


def test_samples_that_are_no_numbers_are_silence(wave):
    callback = Callback(make())
    wave[100], wave[200], wave[300] = np.nan, np.inf, -1e20
    output = call(callback, wave, ODD)
    wave[[100, 200, 300]] = 0
    np.testing.assert_array_equal(output[HOP - 1 :, 0], wave[: -HOP + 1] / 2)
    assert callback.failures == 0 and callback.summary().endswith("failures 0, samples that were no sound 3")


def test_bypass_is_the_microphone_and_the_model_goes_on(wave):
    callback, reference = Callback(make()), call(Callback(make()), wave, (1000,) * 5)
    first = call(callback, wave[:1000], (1000,))
    control(callback, io.StringIO("\n"))
    second = call(callback, wave[1000:2000], (1000,))
    assert callback.meter().endswith("bypass")
    control(callback, io.StringIO("\n\n\n"))
    third = call(callback, wave[2000:], (1000,) * 3)
    np.testing.assert_array_equal(second[:, 1], wave[1000:2000])
    np.testing.assert_array_equal(np.concatenate([first, third]), np.delete(reference, slice(1000, 2000), axis=0))


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_a_typed_number_limits_the_attenuation(caplog, rate):
    stream = make()
    callback = Callback(stream if rate == RATE else Resampled(stream, rate))
    for line, limit in (("12", 12), ("loud", 12), ("-3", 12), (" 4.5 ", 4.5), ("null", None)):
        control(callback, io.StringIO(f"{line}\n"))
        assert callback.stream.attenuation_limit_db == stream.attenuation_limit_db == limit
    assert not callback.bypass and len(caplog.messages) == 2
    assert "'loud'; type a number of dB" in caplog.messages[0] and "=-3.0: must be" in caplog.messages[1]


def test_meter_shows_peaks_since_the_last_one(wave):
    callback = Callback(make())
    assert callback.meter().startswith(f"in [{' ' * 20}] -100 dB  out [{' ' * 20}] -100 dB   0.0 ms")
    call(callback, np.full(1600, 0.1, np.float32), (160,) * 10)
    assert callback.meter().startswith(f"in [{'#' * 13}{' ' * 7}]  -20 dB  out [{'#' * 11}{' ' * 9}]  -26 dB")
    call(callback, np.full(1600, 4.0, np.float32), (160,) * 10)
    assert callback.meter().startswith(f"in [{'#' * 20}]   12 dB")
    assert "ms of 10.0 (" in (call(callback, wave[:160], (160,)), callback.meter())[1]


class PortAudioError(Exception):
    pass


class Card:
    """A simulated package sounddevice: three devices, and a thread that calls back for a number of blocks."""

    PortAudioError = PortAudioError
    DEVICES = (
        {"name": "Mic (USB)", "max_input_channels": 1, "max_output_channels": 0},
        {"name": "Headset", "max_input_channels": 1, "max_output_channels": 2},
        {"name": "Headphones", "max_input_channels": 0, "max_output_channels": 2},
    )

    def __init__(self, rates=(16000, 48000), default=(0, 2), blocks=40, refuses=False, devices=DEVICES):
        self.rates, self.default, self.blocks, self.refuses = rates, default, blocks, refuses
        self.devices = devices
        self.streams = []

    def query_devices(self, kind=None):
        devices = [device | {"index": i, "default_samplerate": 48000.0} for i, device in enumerate(self.devices)]
        if kind is None:
            return devices
        if self.default is None:
            raise PortAudioError("Error querying device -1")
        return devices[self.default[kind == "output"]]

    def check_input_settings(self, device, channels, dtype, samplerate):
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    check_output_settings = check_input_settings

    def Stream(self, callback, **settings):
        if self.refuses:
            raise PortAudioError("Device unavailable [PaErrorCode -9985]")
        self.streams.append(Playing(callback, self.blocks, **settings))
        return self.streams[-1]


class Playing:
    latency = (0.01, 0.02)

    def __init__(self, callback, blocks, **settings):
        self.callback, self.blocks, self.settings, self.active, self.closed = callback, blocks, settings, True, False
        self.thread = threading.Thread(target=self.play)

    def play(self):
        frames, (inputs, outputs) = self.settings["blocksize"], self.settings["channels"]
        for _ in range(self.blocks):
            out = np.empty((frames, outputs), np.float32)
            self.callback(np.full((frames, inputs), 0.1, np.float32), out, frames, None, FINE)
            assert np.isfinite(out).all()
        self.active = False  # the device is taken away

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.thread.join()
        self.closed = True


configure = partial(compose, "task=live")


@pytest.fixture
def published(references):
    return references / "gtcrn" / "gtcrn_simple.onnx"


@pytest.mark.parametrize(
    ("card", "overrides", "rate", "block", "devices", "channels"),
    [
        (Card(), [], 16000, 256, (0, 2), (1, 2)),
        (Card(rates=(48000,)), ["output_device=headset", "attenuation_limit_db=9"], 48000, 768, (0, 1), (1, 2)),
        (Card(), ["device_rate=44100", "block=441", "input_device=1"], 44100, 441, (1, 2), (1, 2)),
        (
            Card(default=None),
            ["input_device=usb", "output_device=2", "bypass=true", "attenuation_limit_db=9"],
            16000,
            256,
            (0, 2),
            (1, 2),
        ),
    ],
)
def test_a_device_that_goes_ends_with_a_summary(
    monkeypatch, caplog, published, card, overrides, rate, block, devices, channels
):
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="no more sound comes or goes; was a device taken away"):
        live.run(configure(f"ckpt={published}", *overrides))
    (sound,) = card.streams
    settings = {key: sound.settings[key] for key in ("samplerate", "blocksize", "device", "channels", "dtype")}
    assert settings == {
        "samplerate": rate,
        "blocksize": block,
        "device": devices,
        "channels": channels,
        "dtype": "float32",
    }
    assert sound.closed and sound.callback.bypass is ("bypass=true" in overrides)
    limit = 9 if "attenuation_limit_db=9" in overrides else None
    assert sound.callback.stream.attenuation_limit_db == limit
    assert f"{40 * block / rate:.1f} s in 40 blocks" in caplog.text and "failures 0" in caplog.text


def test_checkpoints_run_too(monkeypatch, caplog, references):
    card = Card(blocks=5)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="taken away"):
        live.run(configure(f"ckpt={references / 'gtcrn' / 'dns3_epoch87.tar'}"))
    assert "in 5 blocks" in caplog.text and "failures 0" in caplog.text
    with pytest.raises(UserError, match="cannot stream: layer"):
        live.run(configure(f"ckpt={references / 'light_v3' / 'best_model_078.tar'}"))


def test_silent_death_is_noticed(monkeypatch, published):
    monkeypatch.setattr(live, "PATIENCE", 0.3)
    monkeypatch.setattr(Playing, "play", lambda self: time.sleep(0.5))
    card = Card()
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    with pytest.raises(UserError, match="no more sound"):
        live.run(configure(f"ckpt={published}"))
    assert card.streams[0].closed


@pytest.mark.slow
def test_it_ends_after_seconds_or_with_ctrl_c(monkeypatch, caplog, published):
    def play(self):
        while not self.ended.wait(0.001):
            self.callback(np.zeros((256, 1), np.float32), np.empty((256, 2), np.float32), 256, None, LOST)

    def leave(self, *error):
        self.ended.set()
        self.thread.join()

    monkeypatch.setattr(Playing, "ended", threading.Event(), raising=False)
    monkeypatch.setattr(Playing, "play", play)
    monkeypatch.setattr(Playing, "__exit__", leave)
    monkeypatch.setitem(sys.modules, "sounddevice", Card())
    caplog.set_level("INFO")
    live.run(configure(f"ckpt={published}", "seconds=0.2"))
    assert "processing took" in caplog.text
    caplog.clear()
    Playing.ended.clear()

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(live, "watch", interrupted)
    live.run(configure(f"ckpt={published}"))
    assert "processing took" in caplog.text


def test_devices_are_listed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", Card())
    live.run(configure("devices=list"))
    assert "Mic (USB)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("card", "overrides", "complaint"),
    [
        (Card(), ["ckpt=nowhere.onnx"], "nowhere.onnx: no such file"),
        (
            Card(),
            ["PUBLISHED", "output_device=head"],
            "output_device=head: fits several devices; .* 1 Headset, 2 Headph",
        ),
        (Card(), ["PUBLISHED", "input_device=2"], r"input_device=2: fits no device; .* 0 Mic \(USB\), 1 Headset"),
        (
            Card(default=None),
            ["PUBLISHED"],
            r"no default input device; give input_device=…, of these: 0 Mic \(USB\), 1",
        ),
        (Card(default=None, devices=()), ["PUBLISHED"], "no input device was found: plug one in"),
        (Card(devices=()), ["PUBLISHED", "input_device=3"], "no input device was found: plug one in"),
        (Card(refuses=True), ["PUBLISHED"], "the sound device failed: Device unavailable .*; devices=list shows"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, published, card, overrides, complaint):
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    with pytest.raises(UserError, match=complaint) as error:
        live.run(configure(*(o.replace("PUBLISHED", f"ckpt={published}") for o in overrides)))
    assert "\n" not in str(error.value)


def test_exact_names_come_first():
    card = Card(devices=(*Card.DEVICES, {**Card.DEVICES[1], "name": "Head"}))
    assert choose(card, "output", "Head")["index"] == 3


@pytest.mark.slow
def test_missing_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[live\]'"):
        live.run(configure("devices=list"))
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="task=live: PortAudio library not found; install PortAudio, e.g. apt install"):
        live.run(configure("devices=list"))
