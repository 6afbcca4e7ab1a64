"""The C file on emulated cores: the simulated codes to the bit, the samples of this computer, and how many
instructions, how much stack and how much flash they take on Cortex-M."""

import numpy as np
import pytest

from gtcrn.errors import UserError
from gtcrn.export.c.check import computed, simulated
from gtcrn.quantization.calibration import network_input
from gtcrn.runtime.bare_metal.emulation import CORES, emulate, footprint, require_tools
from gtcrn.runtime.c_code import CStep, read_source
from gtcrn.runtime.framing import Stream, stream_arguments

HOPS = 20  # of samples, after the codes of 3 s
LIMITS = {  # million instructions of a hop with -O2, everything included: what gcc 12.2 gives, and a seventh more
    ("micro", "m4f"): 2.85,
    ("micro", "m7"): 2.75,
    ("micro_int8", "m4f"): 2.4,
    ("micro_int8", "m7"): 2.3,
}


@pytest.fixture(scope="module", params=CORES)
def core(request):
    try:
        require_tools(request.param)
    except UserError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def inputs(large, compiled, speech, tmp_path_factory):
    """Return a folder with the codes of 3 s and some hops of samples, and what they are expected to give."""
    folder, code = tmp_path_factory.mktemp("inputs"), compiled(large)
    expected = simulated(large.network, network_input(large.enhancer, speech[: 3 * 16000]))
    assert (computed(code, large.network, expected.input).masks == expected.masks).all()
    samples = speech[16000 : 16000 + HOPS * 256]
    expected.input.tofile(folder / "codes.bin")
    samples.tofile(folder / "samples.bin")
    return folder, expected, Stream(*stream_arguments(CStep(code), code.signal)).process(samples)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["simd", "plain"])
def test_codes_and_samples(large, inputs, core, path):
    if path == "plain" and core == "rv32imc":
        pytest.skip("has no other path than the plain one")
    folder, expected, samples = inputs
    source, flags = read_source(large.path), ["-O2", "-DCODES", *(["-DGTCRN_PLAIN"] if path == "plain" else [])]
    counts = emulate(source, core, folder, flags)
    masks, memory = (np.fromfile(folder / f"{name}.bin", np.int8) for name in ("masks", "memory"))
    np.testing.assert_array_equal(masks, expected.masks.ravel())
    oldest, begin = np.fromfile(folder / "oldest.bin", np.uint16), 0
    for (name, state), first in zip(expected.states.items(), oldest):
        frames = large.network.program.states()[name][0]
        ring = memory[begin : begin + state.size].reshape(frames, -1)
        np.testing.assert_array_equal(np.roll(ring, -int(first), axis=0).ravel(), state, err_msg=name)
        begin += state.size
    for heard in (
        np.fromfile(folder / "enhanced.bin", np.float32),
        np.fromfile(folder / "enhanced_int16.bin", np.int16) / 32768,
    ):
        assert np.sum((heard - samples) ** 2) < 1e-5 * np.sum(samples**2)  # 50 dB
    assert 0.5e6 < counts.network < counts.hop  # a counter that wrapped would be less
    if (large.name, core) in LIMITS and path == "simd":
        size = footprint(source, core, folder, flags)
        assert counts.hop < 1e6 * LIMITS[large.name, core]
        assert counts.state + counts.stack_int16 < 56 * 1024
        assert size.code + size.constants < 64 * 1024


@pytest.mark.slow
def test_counts_repeat(large, inputs, core):
    """Up to a tick of the clock, which is at most 50 instructions."""
    if large.name == "micro" or core not in ("m4f", "rv32imc"):
        pytest.skip("one model and a core of each kind are enough")
    folder, *_ = inputs
    first, second = (emulate(read_source(large.path), core, folder) for _ in range(2))
    assert abs(first.hop - second.hop) <= 100
    assert first._replace(hop=0, network=0) == second._replace(hop=0, network=0)
