"""Synthetic speech with many voices by espeak-ng, which the wheel `espeakng-loader` (the extra `demo`) contains."""

import ctypes
from functools import lru_cache

import numpy as np

from gtcrn.data import audio
from gtcrn.data.demo.sentences import SENTENCES
from gtcrn.errors import UserError

# espeak-ng's voice variants. No voice is in two splits, nor are variants that sound nearly alike (edward, edward2).
# Whispers and robots are left out. A voice that is listed twice is twice as likely: there are fewer female ones.
TALKERS = {
    "train": (
        "m1 m2 m3 m4 m5 m6 Alex Andy Denis Gene Henrique Hugo Jacky Lee Mario Michael adam boris david ed "
        "edward edward2 gustave iven3 iven4 john klatt4 klatt5 marcelo max michel miguel rob robert "
        "f1 f2 f3 Annie Andrea anika belinda shelby grandma "
        "f1 f2 f3 Annie Andrea anika belinda shelby grandma"
    ).split(),
    "validation": "m7 Diogo norbert pablo quincy f5 linda f5 linda".split(),
    "test": "m8 Mike paul travis sandro victor f4 Alicia steph aunty f4 Alicia steph aunty".split(),
}
# voices for babble only
CROWD = "Nguyen antonio benjamin kaukovalta Marco pedro ian Reed Storm RicishayMax caleb".split()

_SYNCHRONOUS, _UTF8 = 2, 1  # espeak_AUDIO_OUTPUT, espeakCHARS_UTF8
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_OnAudio = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def require_espeak():
    """Return the module `espeakng_loader`. Raises UserError if the extra is not installed."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            'data=demo speaks with espeakng-loader, which is not installed: pip install -e ".[demo]"'
        ) from error
    return espeakng_loader


class _Espeak:
    """The library espeak-ng. Its state is global, so a process has one and must not use it from several threads."""

    def __init__(self):
        loader = require_espeak()
        self.library = ctypes.CDLL(loader.get_library_path())
        self.sample_rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, loader.get_data_path().encode(), 0)
        if self.sample_rate <= 0:
            raise UserError(f"espeak-ng can't read {loader.get_data_path()}; reinstall espeakng-loader")
        self.chunks: list[np.ndarray] = []
        self.callback = _OnAudio(self._on_audio)  # ctypes does not keep its callbacks alive
        self.library.espeak_SetSynthCallback(self.callback)

    def _on_audio(self, samples, count, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, parameters: dict[int, int]) -> np.ndarray:
        self.chunks.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {voice}: pip install --upgrade espeakng-loader")
        for parameter, value in parameters.items():
            self.library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        return np.concatenate(self.chunks).astype(np.float32) / 2**15


_espeak = lru_cache(maxsize=1)(_Espeak)


def utterance(rng: np.random.Generator, talker: str, language: str, frames: int, sample_rate: int) -> np.ndarray:
    """Return speech (frames,) of one voice: sentences in random order, with pauses, at a random pitch and speed.

    It is not a function of `rng` alone: in the last bits it also depends on what this process has spoken before.
    """
    espeak = _espeak()
    espeak.library.espeak_ng_SetRandSeed(ctypes.c_long(int(rng.integers(2**31))))  # breathy voices hold noise
    parameters = {
        _RATE: int(rng.integers(125, 190)),  # words per minute
        _VOLUME: 60,  # of 100, at which some voices clip
        _PITCH: int(rng.integers(30, 70)),
        _RANGE: int(rng.integers(30, 80)),
    }
    wanted = -(-frames * espeak.sample_rate // sample_rate)
    parts, length = [], 0
    while length < wanted:
        for text in rng.permutation(SENTENCES[language]):
            pause = np.zeros(int(rng.uniform(0.05, 0.4) * espeak.sample_rate), np.float32)
            parts += [pause, espeak.speak(str(text), f"{language}+{talker}", parameters)]
            length += sum(map(len, parts[-2:]))
            if length >= wanted:
                break
    wave = audio.resample(np.concatenate(parts)[:wanted], espeak.sample_rate, sample_rate)[:frames]
    fade = min(frames, sample_rate // 50)  # 20 ms: it may end within a word
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return wave
