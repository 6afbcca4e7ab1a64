"""Streaming is a property of every causal configuration in conf/model: these tests run over that folder.

In float32, as streams are run. What differs is measured against full scale, 1: 1e-5 of it is -100 dB.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fixtures.commands import CONF, compose
from fixtures.systems import wake
from hydra.utils import instantiate

from gtcrn.errors import UserError
from gtcrn.profiling.cost import count_macs
from gtcrn.streaming import flatten

pytestmark = pytest.mark.slow

# What a stream can get wrong, it does from one call to the next, and all that it remembers but for recurrent states is
# shorter than a second. An error that grows shows itself within a minute, and one model is followed for ten.
CHEAP = 400e6  # MACs per second of audio up to which a model gets ten seconds frame by frame
LONGEST = 5e9  # MACs of what a costlier one gets in place of them
SECTIONS = 10  # into which they are cut, if each has ten hops then
REPEATED = {"light_v3": 60}  # times that they are heard in chunks: ten minutes


def is_model(path: Path) -> bool:
    return compose(f"model={path.stem}").model.get("_target_", "").startswith("gtcrn.models.")


# sizes of FastEnhancer but the smallest, t, and the smallest whose hop does not divide its frames, m
LEFT_OUT = {f"fastenhancer_{size}" for size in ("b", "s", "l", "48k_t", "48k_b", "48k_s", "48k_m")}
MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml") if is_model(path)} - LEFT_OUT)


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    """As streams are run, and in less memory."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def enhancer(name):
    torch.manual_seed(0)
    return wake(instantiate(compose(f"model={name}").model)).eval()


@pytest.fixture(scope="module")
def seconds(enhancer) -> float:
    """Ten of them, or fewer if the model is costly."""
    tenth = torch.zeros(1, enhancer.sample_rate // 10)
    macs_per_second = 10 * sum(count_macs(enhancer.core, enhancer.core_input(tenth)).values())
    return 10 if macs_per_second <= CHEAP else LONGEST / macs_per_second


@pytest.fixture(scope="module")
def sections(recordings, enhancer, seconds) -> torch.Tensor:
    """Real noisy speech, cut into sections of whole hops: (sections, N)."""
    files = sorted((recordings / "vctk_demand_mini" / "noisy").glob("*.wav"))
    wave = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in files])
    wave = wave[16000:]  # a moment may be all, and the first ones are before the speech
    hops = int(seconds * enhancer.sample_rate) // enhancer.hop_length
    count = SECTIONS if hops >= 10 * SECTIONS else 1
    wave = np.resize(wave, (count, hops // count * enhancer.hop_length))
    return torch.from_numpy(wave)


@pytest.fixture(scope="module")
def speech(sections) -> torch.Tensor:
    """All of it, (1, N)."""
    return sections.reshape(1, -1)


@pytest.fixture(scope="module")
def long_speech(speech, name) -> torch.Tensor:
    return speech.repeat(1, REPEATED.get(name, 6))


@pytest.fixture(scope="module")
def offline(enhancer, long_speech):
    return enhancer(long_speech)[0]


def stream(enhancer, wave, sizes, state=None):
    """The streamed output, fed in chunks of these numbers of hops, over and over, and the last state."""
    state = state or enhancer.initial_state(wave.shape[0])
    outputs, position, turn = [], 0, 0
    while position < wave.shape[1]:
        chunk = wave[:, position : position + sizes[turn % len(sizes)] * enhancer.hop_length]
        output, state = enhancer(chunk, state)
        outputs.append(output)
        position, turn = position + chunk.shape[1], turn + 1
    return torch.cat(outputs, dim=1), state


def without_end(wave, enhancer):
    """Without the samples for which the stream would need more input."""
    return wave[:, : wave.shape[1] - enhancer.latency]


def side_by_side(states):
    """Of several streams, as of a batch."""
    if isinstance(states[0], dict):
        return {name: side_by_side([state[name] for state in states]) for name in states[0]}
    return torch.cat(states)


def error(streamed, offline, enhancer) -> float:
    """The largest one, of all of the stream."""
    late = streamed[:, enhancer.latency :]
    return (late - offline[:, : late.shape[1]]).abs().max().item()


def test_frame_by_frame_equals_offline(enhancer, sections, offline):
    """A batch of streams, each of which goes on where the last one ends."""
    states = [enhancer.initial_state(1)]
    for section in sections:
        states.append(enhancer(section[None], states[-1])[1])
    streamed, last = stream(enhancer, sections, [1], side_by_side(states[:-1]))
    assert error(streamed.reshape(1, -1), offline, enhancer) <= 1e-5
    torch.testing.assert_close(last, side_by_side(states[1:]), atol=1e-5, rtol=1e-5)
    alone, _ = stream(enhancer, sections[:1], [1])
    assert error(alone, offline, enhancer) <= 1e-5
    assert offline.abs().max() > 1e-2  # there is something to compare


def test_random_chunks_equal_offline(enhancer, long_speech, offline):
    longest = min(400, long_speech.shape[1] // enhancer.hop_length // 2)
    sizes = np.random.default_rng(0).integers(1, longest, size=50).tolist()
    assert error(stream(enhancer, long_speech, sizes)[0], offline, enhancer) <= 1e-5


def test_future_changes_no_past_frame(enhancer, seconds):
    """Of the core: frames up to t answer only frames up to t; samples, if it knows no frames."""
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(1, int(min(1, seconds) * enhancer.sample_rate), generator=generator)
    frames = enhancer.core_input(wave)
    changed = frames.clone()
    middle = frames.shape[2] // 2
    changed[:, :, middle + 1 :] += 0.1 * torch.randn(changed[:, :, middle + 1 :].shape, generator=generator)
    before, after = enhancer.core(frames)[0], enhancer.core(changed)[0]
    assert torch.equal(before[:, :, : middle + 1], after[:, :, : middle + 1])
    assert not torch.equal(before[:, :, middle + 1], after[:, :, middle + 1])


def test_output_is_aligned_and_first_frame_is_enhanced(enhancer):
    """With the network replaced by a mask of one half, the output is half the input, sample for sample: in double
    precision, but for the windows, which are kept in float32."""
    halving = copy.deepcopy(enhancer).double()
    halving.core.forward = lambda frames, state=None: (0.5 * frames, {})
    wave = torch.randn(2, 5 * enhancer.hop_length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = halving(wave)[0]
    streamed, _ = stream(halving, wave, [1])
    late = enhancer.latency
    torch.testing.assert_close(whole, 0.5 * wave, atol=1e-6, rtol=0)
    torch.testing.assert_close(streamed[:, late:], 0.5 * without_end(wave, enhancer), atol=1e-6, rtol=0)
    assert late == 0 or streamed[:, :late].abs().max() < 1e-6  # nothing before the signal began


def test_first_output_of_the_stream_is_the_first_frame(enhancer, speech, offline):
    state = enhancer.initial_state(1)
    late, hop = enhancer.latency, enhancer.hop_length
    outputs = []
    for chunk in speech[:, : late + -late % hop + hop].split(hop, dim=1):
        output, state = enhancer(chunk, state)
        outputs.append(output)
    first = torch.cat(outputs, dim=1)[:, late : late + hop]
    assert (first - offline[:, :hop]).abs().max() <= 1e-5


def test_streams_of_a_batch_are_independent(enhancer, speech):
    half = min(8192, speech.shape[1] // 2)
    first, second = speech[:, :half], speech[:, half : 2 * half]
    both = enhancer(torch.cat([first, second]))[0]
    torch.testing.assert_close(both[1:], enhancer(second)[0], atol=1e-5, rtol=0)


def test_any_length_comes_back(enhancer):
    for length in (1, 100, enhancer.hop_length, 1000, 12345):
        assert enhancer(torch.zeros(1, length))[0].shape == (1, length)


def test_state_names_are_flat_and_unique(enhancer):
    names = list(flatten(enhancer.initial_state(1)))
    assert len(names) == len(set(names)) and all(name.startswith("state.") for name in names)


def test_wrong_input_is_named(enhancer):
    with pytest.raises(UserError, match=r"expected floating point \(B, N\)"):
        enhancer(torch.zeros(100))
    with pytest.raises(UserError, match="multiples of hop_length"):
        enhancer(torch.zeros(1, enhancer.hop_length + 1), enhancer.initial_state(1))


@pytest.mark.parametrize("name", ["gtcrn", "light_v3"])
def test_offline_variant_refuses_to_stream(name):
    enhancer = instantiate(compose(f"model={name}", "streaming=offline").model).eval()
    with pytest.raises(UserError, match=r"layer 'encoder.2.\w+' looks 1 frame ahead"):
        enhancer.initial_state(1)
    for model, x in ((enhancer, torch.zeros(1, 256)), (enhancer.core, torch.zeros(1, 2, 1, 257))):
        with pytest.raises(UserError, match="cannot stream"):
            model(x, {})


def test_lookahead_of_light_v3_offline_is_22_frames():
    """As measured: the 22nd frame from now still matters, the 23rd does not at all."""
    torch.manual_seed(0)
    core = instantiate(compose("model=light_v3", "streaming=offline").model).eval().core
    assert core.total_lookahead() == 22
    spec = torch.randn(1, 2, 80, 257, requires_grad=True)
    with torch.enable_grad():
        core(spec)[0][:, :, 30].sum().backward()
    influence = spec.grad.abs().amax(dim=(0, 1, 3))
    assert influence[52] > 0 and (influence[53:] == 0).all()


def test_double_precision_is_kept(enhancer):
    double = copy.deepcopy(enhancer).double()
    wave = torch.randn(1, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    enhanced, state = double(wave)
    assert enhanced.dtype == torch.float64
    assert all(tensor.dtype == torch.float64 for tensor in flatten(state).values())
    assert (enhanced - enhancer(wave.float())[0]).abs().max() < 1e-3
