"""Rules for FastEnhancer: its RNNFormer blocks on one frame, and its network as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from gtcrn.export.optimize.fourier import ComplexMask
from gtcrn.export.optimize.recurrent import GRUStep, gru_weights
from gtcrn.export.optimize.rules import replacement
from gtcrn.export.optimize.weights import convolution, linear
from gtcrn.models.enhancer import StreamingModel
from gtcrn.models.fastenhancer import QUIETEST, FastEnhancer, RNNFormer
from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State


class RNNFormerStep(Stateful):
    """An RNNFormer block on one frame (F, C)."""

    def __init__(self, block: RNNFormer):
        super().__init__()
        self.n_bands = block.rnn.n_freqs
        self.rnn = GRUStep(gru_weights(block.rnn))
        self.register_buffer("rnn_fc", block.rnn_fc.weight.T.contiguous(), persistent=False)
        embedding = block.rnn_fc.weight.new_zeros(self.n_bands, 1) if block.pe is None else block.pe
        self.register_buffer("offset", block.rnn_fc.bias + embedding, persistent=False)
        heads = block.attn.heads
        by_head = block.attn.qkv.weight.unflatten(0, (heads, 3, -1)).transpose(0, 1)  # (3, heads, C / heads, C)
        scale = by_head.shape[2] ** -0.25  # of queries and keys, whose products are divided by a root
        self.qkv = linear((by_head * torch.tensor([scale, scale, 1.0]).view(3, 1, 1, 1)).flatten(0, 2))
        self.heads = heads
        self.attn_fc = block.attn_fc

    def initial_state(self, batch_size: int) -> State:
        return {"rnn": self.offset.new_zeros(batch_size, self.n_bands, self.rnn.hidden_size)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.rnn(x, state["rnn"].flatten(0, 1))
        x = x + torch.addmm(self.offset, hidden, self.rnn_fc)
        # with bands last, heads follow one another in memory
        q, k, v = self.qkv(x).T.reshape(3 * self.heads, -1, self.n_bands).chunk(3)  # (heads, C / heads, F) each
        y = v @ torch.softmax(q.transpose(1, 2) @ k, dim=2).transpose(1, 2)
        x = x + self.attn_fc(y.reshape(-1, self.n_bands).T)
        return x, {"rnn": hidden[None]}


@replacement.register
def replace_rnnformer(block: RNNFormer, recurrence: str) -> RNNFormerStep:
    return RNNFormerStep(block)


class FastEnhancerStep(StreamingModel):
    """FastEnhancer for one frame: what follows one another without an activation between them is one product."""

    def __init__(self, network: FastEnhancer):
        super().__init__()
        self.compression = network.compression
        self.downsample, self.encoder = network.downsample, network.encoder
        self.bands, to_channels = network.to_bands[:2]
        self.to_channels = linear(to_channels.weight.flatten(1), to_channels.bias)
        self.blocks = network.blocks
        self.bins, from_channels = network.to_bins[:2]
        self.decoder, self.upsample = network.decoder, network.upsample
        # the convolution behind the blocks goes into the next one, whose first channels it makes
        first = (self.decoder or [self.upsample])[0]
        before, skip = first[0].weight.chunk(2, dim=1)
        before = before.flatten(1)
        weight = torch.cat([before @ from_channels.weight.flatten(1), skip.flatten(1)], dim=1)
        first[0] = convolution(weight[..., None, None], first[0].bias + before @ from_channels.bias)
        self.masked = ComplexMask()
        self.register_buffer("highest", torch.zeros(1, 2, 1, 1), persistent=False)

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the enhanced spectrum (1, 2, 1, bins) of a frame, and the next state."""
        state = self.start(spec.shape[0], state)
        spec = spec[..., :-1]
        energy = (spec * spec).sum(dim=1, keepdim=True)
        spec = spec * energy.clamp(min=QUIETEST) ** ((self.compression - 1) / 2)
        skips = [self.downsample(spec)]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        x = self.bands(skips[-1]).flatten(0, 2)  # (C, bands)
        x, blocks = self.blocks(self.to_channels(x.T), state["blocks"])
        x = self.bins(x.T)[None, :, None]  # (1, C', 1, F / stride)
        for block in (*self.decoder, self.upsample):
            x = block(torch.cat([x, skips.pop()], dim=1))
        spec = self.masked(x, spec)
        energy = (spec * spec).sum(dim=1, keepdim=True) + 1e-12
        spec = spec * energy ** ((1 / self.compression - 1) / 2)
        return torch.cat([spec, self.highest], dim=3), {"blocks": blocks}


@replacement.register
def replace_fastenhancer(network: FastEnhancer, recurrence: str) -> FastEnhancerStep:
    return FastEnhancerStep(network)
