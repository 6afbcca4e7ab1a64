"""The C file on emulated Cortex-M cores: the simulated codes to the bit, the samples of this computer, and how many
instructions, how much stack and how much flash they take.

With -icount shift=0 an instruction takes a nanosecond of the emulated time, so counts repeat to some ten instructions.
They are instructions, not cycles. How many there are depends on the compiler: the limits have a margin.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gtcrn.export.c.check import computed, simulated
from gtcrn.quantization.calibration import network_input
from gtcrn.runtime.c_code import CStep
from gtcrn.runtime.framing import Stream, stream_arguments

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
for tool in (COMPILER, EMULATOR):
    if not shutil.which(tool):
        pytest.skip(
            f"{tool} is not installed: the packages gcc-arm-none-eabi, libnewlib-arm-none-eabi and "
            "qemu-system-arm have what counts instructions of Cortex-M",
            allow_module_level=True,
        )

HARNESS = Path(__file__).parent / "cortex_m"
HOPS = 20  # of samples, after the codes of 3 s


class Core(NamedTuple):
    """A core, the board of it that is emulated, its clock in MHz, and where it has its memory."""

    options: tuple[str, ...]
    board: str
    clock: int = 25
    code: str = "0"
    ram: str = "0x20000000"


CORES = {
    "m4": Core(("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), "mps2-an386"),
    "m7": Core(("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16"), "mps2-an500"),
    "m33": Core(("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16"), "mps2-an505", 20, "0x10000000", "0x38000000"),
    "m55": Core(("-mcpu=cortex-m55", "-mfpu=auto"), "mps3-an547", 32),
}
LIMITS = {  # million instructions of a hop with -O2, everything included: what gcc 12.2 gives, and a seventh more
    ("micro", "m4"): 2.85,
    ("micro", "m7"): 2.75,
    ("micro_int8", "m4"): 2.4,
    ("micro_int8", "m7"): 2.3,
}


class Emulated(NamedTuple):
    """What a core gave. counts: instructions of the network and of a whole hop, bytes of stack and state."""

    masks: np.ndarray
    memory: np.ndarray
    samples: np.ndarray
    counts: dict[str, int]
    flash: int


def emulate(model, core, folder, *options):
    """Run a model's C file on a core, over codes.bin and samples.bin of the folder."""
    program = folder / "program.elf"
    place = [f"-Wl,--defsym={name}={value}" for name, value in (("CODE", core.code), ("RAM", core.ram))]
    flags = ["-std=gnu99", "-O2", "-mthumb", "-mfloat-abi=hard", *core.options, *options]
    names = [f'-DMODEL="{model.source}"', f"-DNAME={model.name}", f"-DPS_OF_A_TICK={1_000_000 // core.clock}"]
    linked = ["-nostartfiles", f"-Wl,-T,{HARNESS / 'memory.ld'}", *place, "--specs=nano.specs", "--specs=nosys.specs"]
    sources = HARNESS / "start.c", HARNESS / "main.c"
    command = [COMPILER, *flags, *names, *linked, *sources, "-lm", "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    semihosting = ["-semihosting-config", "enable=on,target=native"]
    quiet = ["-nographic", "-monitor", "none", "-serial", "none"]
    command = [EMULATOR, "-M", core.board, "-kernel", program, "-icount", "shift=0", *semihosting, *quiet]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sizes = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    text, data = map(int, sizes.splitlines()[1].split()[:2])
    read = {name: np.fromfile(folder / f"{name}.bin", np.int8) for name in ("masks", "memory")}
    counts = json.loads((done.stdout + done.stderr).strip().splitlines()[-1])
    return Emulated(**read, samples=np.fromfile(folder / "enhanced.bin", np.float32), counts=counts, flash=text + data)


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
@pytest.mark.parametrize("core", CORES)
def test_codes_and_samples(large, inputs, core, path):
    folder, expected, samples = inputs
    plain = ["-DGTCRN_PLAIN"] if path == "plain" else []
    given = emulate(large, CORES[core], folder, *plain)
    np.testing.assert_array_equal(given.masks, expected.masks.ravel())
    oldest, begin = np.fromfile(folder / "oldest.bin", np.uint16), 0
    for (name, state), first in zip(expected.states.items(), oldest):
        frames = large.network.program.states()[name][0]
        ring = given.memory[begin : begin + state.size].reshape(frames, -1)
        np.testing.assert_array_equal(np.roll(ring, -int(first), axis=0).ravel(), state, err_msg=name)
        begin += state.size
    noise = given.samples - samples
    assert 10 * np.log10(np.sum(samples**2) / np.sum(noise**2)) > 50
    pcm = np.fromfile(folder / "enhanced_int16.bin", np.int16) / 32768
    assert 10 * np.log10(np.sum(samples**2) / np.sum((pcm - samples) ** 2)) > 50
    if (large.name, core) in LIMITS and path == "simd":
        assert given.counts["hop"] < 1e6 * LIMITS[large.name, core]
        assert given.counts["hop"] > 0.5e6  # a counter that wrapped would be less
        assert given.counts["state"] + given.counts["stack_int16"] < 56 * 1024
        assert given.flash < 64 * 1024


@pytest.mark.slow
def test_counts_repeat(large, inputs):
    """Up to a tick of the clock, which is 40 instructions."""
    if large.name == "micro":
        pytest.skip("one model is enough")
    folder, *_ = inputs
    first, second = (emulate(large, CORES["m4"], folder).counts for _ in range(2))
    assert abs(first["hop"] - second["hop"]) <= 80
    assert first | {"hop": 0, "network": 0} == second | {"hop": 0, "network": 0}
