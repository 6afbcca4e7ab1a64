"""Checkpoints of quantization-aware training: the float model with the integers that learnt from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gtcrn.dsp import apply_complex_mask, magnitude_and_parts
from gtcrn.errors import UserError
from gtcrn.models.enhancer import Enhancer, SpectralEnhancer, StreamingModel
from gtcrn.models.pretrained import Checkpoint, open_checkpoint, require_finite
from gtcrn.quantization.network import Network
from gtcrn.quantization.program import lower
from gtcrn.streaming.state import State

INTEGERS = "integers"  # beside "model" in a checkpoint's record: the arguments of `new_network`
PREFIX = "network."  # of the network's tensors among a LightningModule's


def new_network(core: torch.nn.Module, bits: int, rho: int) -> Network:
    """The core in integers of so many bits, every rounding simulated, with no ranges yet; the features are part of
    its first convolution.

    Raises UserError for a core that has no form in integers.
    """
    return Network(lower(core, rho, bits={"*": bits})).quantize()


def holds_integers(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is one of quantization-aware training."""
    return checkpoint.record.get(INTEGERS) is not None


def learnt_network(checkpoint: Checkpoint, enhancer: Enhancer) -> Network:
    """Return the integers of a checkpoint with the ranges and weights they have learnt: no calibration is needed.

    enhancer: the float model of the same checkpoint. Raises UserError in one line if the checkpoint holds no integers
    or damaged ones.
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
    """Return the integers of a checkpoint as an enhancer of whole utterances.

    trust: see `gtcrn.load`. Raises UserError as `open_checkpoint` and `learnt_network`.
    """
    checkpoint = open_checkpoint(path, trust)
    enhancer = checkpoint.enhancer()
    return simulation(enhancer, learnt_network(checkpoint, enhancer))


def simulation(enhancer: SpectralEnhancer, network: Network) -> SpectralEnhancer:
    """Return the enhancer with a network in integers between its bands and its mask, for whole utterances; all parts
    are shared."""
    core = Simulation(enhancer.core, network)
    return SpectralEnhancer(core, enhancer.framing, enhancer.sample_rate, enhancer.padding)


class Simulation(StreamingModel):
    """spectrum (B, 2, T, bins) of whole utterances -> enhanced spectrum, as integers on a device would make it.

    core: whose bands go in and whose mask comes out. It holds no past: a stream is a task for the exported file.
    """

    def __init__(self, core: StreamingModel, network: Network):
        super().__init__()
        self.erb = core.erb
        self.network = network

    def bands(self, spec: Tensor) -> Tensor:
        """(B, 2, T, bins) -> what the integers are given, (B, 3, T, bands)."""
        return self.erb.analysis(magnitude_and_parts(spec))

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Raises UserError if it is asked to stream."""
        if state is not None:
            raise UserError("integers are simulated over whole utterances; export them to stream")
        mask = self.network(self.bands(spec))
        return apply_complex_mask(self.erb.synthesis(mask), spec), {}
