"""Checkpoints of quantization-aware training: a float model, and the network in integers that was trained from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gtcrn.dsp.spectra import apply_complex_mask, magnitude_and_parts
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer, SpectralEnhancer, StreamingModel
from gtcrn.models.pretrained import Checkpoint, open_checkpoint, require_finite
from gtcrn.quantization.network import Network
from gtcrn.quantization.program import lower
from gtcrn.streaming.state import State

INTEGERS = "integers"  # key beside "model" in a checkpoint's record: the arguments of `new_network`
PREFIX = "network."  # of the network's tensors in a LightningModule's state_dict


def new_network(core: torch.nn.Module, bits: int, rho: int) -> Network:
    """Return the core as a network in integers of `bits` bits, whose ranges are not chosen yet.

    Every rounding is simulated, and the features are folded into the first convolution. Raises UserError for a core
    that has no form in integers.
    """
    return Network(lower(core, rho, bits={"*": bits})).quantize()


def holds_integers(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is one of quantization-aware training."""
    return checkpoint.record.get(INTEGERS) is not None


def trained_network(checkpoint: Checkpoint, enhancer: Enhancer) -> Network:
    """Return the network in integers of a checkpoint, with its trained weights and ranges.

    enhancer: the float model of the same checkpoint. Raises UserError if the checkpoint holds no integers, or damaged
    ones.
    """
    if not holds_integers(checkpoint):
        raise UserError(f"checkpoint {checkpoint.path}: holds no integers; name a checkpoint of training=qat")
    state = {key.removeprefix(PREFIX): value for key, value in checkpoint.others.items() if key.startswith(PREFIX)}
    try:
        network = new_network(enhancer.core, **checkpoint.record[INTEGERS])
        network.load_state_dict(state)
    except UserError:
        raise
    except Exception as error:  # a damaged record may make the network raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint {checkpoint.path}: integers of another version of this framework ({reason})"
        ) from error
    require_finite(state, checkpoint.path)
    return network.requires_grad_(False).eval()


def load_simulation(path: str | Path, trust: bool | str = False) -> SpectralEnhancer:
    """Load a network in integers as an enhancer of whole utterances.

    trust: see `gtcrn.load`. Raises UserError as `open_checkpoint` and `trained_network` do.
    """
    checkpoint = open_checkpoint(path, trust)
    enhancer = checkpoint.enhancer()
    return simulation(enhancer, trained_network(checkpoint, enhancer))


def simulation(enhancer: SpectralEnhancer, network: Network) -> SpectralEnhancer:
    """Return an enhancer of whole utterances that maps ERB bands to a mask by a network in integers.

    It shares all parts with `enhancer`.
    """
    core = Simulation(enhancer.core, network)
    return SpectralEnhancer(core, enhancer.framing, enhancer.sample_rate, enhancer.padding)


class Simulation(StreamingModel):
    """A core that simulates a network in integers: spectrum (B, 2, T, bins) -> enhanced spectrum, as on a device.

    core: the float core, whose ERB filterbanks surround the network. It has no state and takes whole utterances alone;
    export the network to stream.
    """

    def __init__(self, core: StreamingModel, network: Network):
        super().__init__()
        self.erb = core.erb
        self.network = network

    def network_input(self, spec: Tensor) -> Tensor:
        """Return the ERB bands (B, 3, T, bands) of spectra (B, 2, T, bins), which the network takes."""
        return self.erb.analysis(magnitude_and_parts(spec))

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Enhance spectra (B, 2, T, bins). Raises UserError if it is asked to stream."""
        if state is not None:
            raise UserError("integers are simulated over whole utterances; export them to stream")
        mask = self.network(self.network_input(spec))
        return apply_complex_mask(self.erb.synthesis(mask), spec), {}
