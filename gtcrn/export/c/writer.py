"""A network in integers as a folder of a header and a file of C99: samples in, samples out, nothing else needed."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from string import Template

from torch import Tensor

from gtcrn.errors import UserError
from gtcrn.export.c.check import Equality, check
from gtcrn.export.c.program import Program
from gtcrn.export.device.float_part import erb_bank, float_part
from gtcrn.export.device.quantized import QuantizedTensor
from gtcrn.models.masking import ERBMaskNetwork
from gtcrn.quantization.network import Network
from gtcrn.runtime.facts import WAVE, Integers, Signal
from gtcrn.runtime.integrity import seal_folder

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = "_c"  # of the folder, after the name that its functions begin with
FILES = ("h", "c")  # suffixes


class IntegerGraph:
    """A network in integers that `describe` and `write` take for a model's graph: of samples, its states inside.

    written: its operators in C. Raises UserError if the C code lacks something that the model has.
    """

    kind = WAVE
    states: dict = {}

    def __init__(self, network: Network, core: ERBMaskNetwork):
        self.network = network
        self.written = Program(network)
        self.erb = [matrix.weight.detach().numpy() for matrix in (core.erb.erb_fc, core.erb.ierb_fc)]
        self.integers = Integers(quantize=network.name)

    def check(self, path: Path, bands: Tensor) -> Equality:
        """Compare the folder's codes with the simulation, see `gtcrn.export.c.check`."""
        return check(self.network, path, bands)

    def share(self, path: Path) -> float:
        """Return the share of the network's multiplications that are in integers: there are no others."""
        return 1.0


def require_identifier(name: str) -> None:
    """Raise UserError unless the names of functions in C may begin with a name."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(
            f"name={name}: is no C identifier, with which the names of functions begin; take letters, digits and _, "
            "a letter first"
        )


def write(graph: IntegerGraph, path: Path, metadata: dict[str, str]) -> None:
    """Write the folder `path`, NAME_c: NAME.h, NAME.c, and its metadata. Raises UserError if NAME is no identifier."""
    name = path.name.removesuffix(SUFFIX)
    require_identifier(name)
    values = _values(graph, name, metadata)
    values["kernels"] = (TEMPLATES / "kernels.c").read_text(encoding="utf-8")
    path.mkdir(exist_ok=True)
    for suffix in FILES:
        text = Template((TEMPLATES / f"model.{suffix}").read_text(encoding="utf-8")).substitute(values)
        (path / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    seal_folder(path, metadata, tuple(f"{name}.{suffix}" for suffix in FILES))


def _values(graph: IntegerGraph, name: str, metadata: dict[str, str]) -> dict[str, object]:
    """Return the values of the templates."""
    written, signal = graph.written, Signal.read(metadata)
    input, mask = (_tensor(written, tensor) for tensor in ("bands", written.program.output))
    erb = erb_bank(*graph.erb, signal.n_fft // 2 + 1)
    values = float_part(signal, written.program.rho, input, mask, erb, linkage="static ")
    sizes = {
        "spectrum_size": 2 * len(erb[0]),
        "bands_size": 3 * len(erb),
        "wide_size": written.wide,
        "codes_size": written.codes,
        "mask_room": prod(written.program.shapes[written.output]),
        "memory_size": sum(written.memories.values()),
        "memories": len(written.memories),
    }
    floats = 2 * values["latency"] + sizes["spectrum_size"] + sizes["bands_size"]
    codes = sizes["codes_size"] + input.size + sizes["mask_room"] + sizes["memory_size"]
    state = 4 * floats + 2 * (sizes["wide_size"] + sizes["memories"]) + codes + codes % 2
    stated = {key: str(value).replace("*/", "* /") for key, value in metadata.items()}
    return {
        **stated,
        **values,
        **sizes,
        "name": name,
        "NAME": name.upper(),
        "state_bytes": f"{-(-state // 4) * 4:,}",
        "macs": f"{written.macs():,}",
        "constants": written.constants,
        "calls": written.calls,
        "first_states": written.first_states,
    }


def _tensor(written: Program, name: str) -> QuantizedTensor:
    channels, freqs = written.program.shapes[name]
    return QuantizedTensor(name, (1, 1, freqs, channels), 8, *written.scale_zero(name))
