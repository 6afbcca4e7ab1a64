"""The U-shaped network over ERB bands that predicts a mask, which the GTCRN family shares."""

from __future__ import annotations

from torch import Tensor, nn

from gtcrn.dsp.erb import ERB
from gtcrn.dsp.spectra import apply_complex_mask, magnitude_and_parts
from gtcrn.errors import UserError
from gtcrn.models.blocks import Decoder, Encoder, StreamingSequential
from gtcrn.models.enhancer import StreamingModel
from gtcrn.streaming.state import State


class ERBMaskNetwork(StreamingModel):
    """A masking network: spectrum (B, 2, T, bins), state -> enhanced spectrum (B, 2, T, bins), next state.

    |S|, re, im -> ERB bands -> features -> encoder -> dual path -> decoder -> bins -> mask · spectrum
                                               └────────── skips ───────┘

    A model with other inputs or another mask overrides `inputs` and `masked`.
    """

    def __init__(
        self, erb: ERB, features: nn.Module, encoder: Encoder, dual_path: StreamingSequential, decoder: Decoder
    ):
        super().__init__()
        self.erb = erb
        self.features = features
        self.encoder = encoder
        self.dual_path = dual_path
        self.decoder = decoder

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.start(spec.shape[0], state)
        mask, next_state = self.mask(self.erb.analysis(self.inputs(spec)), state)
        return self.masked(self.erb.synthesis(mask), spec), next_state

    def inputs(self, spec: Tensor) -> Tensor:
        """Return what the network sees of a spectrum (B, 2, T, bins): |S|, re and im (B, 3, T, bins)."""
        return magnitude_and_parts(spec)

    def masked(self, mask: Tensor, spec: Tensor) -> Tensor:
        """Return the spectrum (B, 2, T, bins) under a mask (B, 2, T, bins), which is complex."""
        return apply_complex_mask(mask, spec)

    def mask(self, bands: Tensor, state: State) -> tuple[Tensor, State]:
        """Predict the mask (B, 2, T, bands) from the bands of `inputs`, the part that is trained and quantized."""
        skips, encoder = self.encoder(self.features(bands), state["encoder"])
        x, dual_path = self.dual_path(skips[-1], state["dual_path"])  # (B, C, T, about bands / 4)
        mask, decoder = self.decoder(x, skips, state["decoder"])
        return mask, {"encoder": encoder, "dual_path": dual_path, "decoder": decoder}


def quartered_bands(erb_low_bins: int, erb_bands: int) -> int:
    """Return the bands after two downsamplings by 2. Raises `UserError` if upsampling would not restore them."""
    bands = erb_low_bins + erb_bands
    if bands % 4 != 1:
        raise UserError(
            f"model.erb_low_bins={erb_low_bins} + model.erb_bands={erb_bands} = {bands}: must be a multiple of 4 "
            f"plus 1, so that frequency can be halved twice and doubled again; nearest: {bands // 4 * 4 + 1}"
        )
    return bands // 4 + 1
