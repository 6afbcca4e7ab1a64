"""Rules for the blocks of the GTCRN family, and for its network as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gtcrn.export.optimize.fourier import ComplexMask, magnitude
from gtcrn.export.optimize.recurrent import SCANS, STEPS, GRUStep, GRUWeights, gru_weights, side_by_side
from gtcrn.export.optimize.rules import replacement, rewrite
from gtcrn.export.optimize.weights import convolution, linear, spread
from gtcrn.models import gtcrn, light_v3, micro, ulunas
from gtcrn.models.enhancer import StreamingModel
from gtcrn.models.masking import ERBMaskNetwork
from gtcrn.streaming import CausalConv2d, Stateful
from gtcrn.streaming.state import State

OPEN = 30.0  # its sigmoid is 1 in 32 bits


class Attention(Stateful):
    """TRA on (1, C, 1, F), which leaves channels that are not at `positions` as they are."""

    def __init__(self, tra: gtcrn.TemporalRecurrentAttention, positions: Tensor, channels: int, recurrence: str):
        super().__init__()
        weights = gru_weights(tra.att_gru)
        spread_input = spread(weights.input.T, positions, channels).T
        self.att_gru = STEPS[recurrence](weights._replace(input=spread_input))
        self.att_fc = _open_elsewhere(tra.att_fc.weight, tra.att_fc.bias, positions, channels)

    def initial_state(self, batch_size: int) -> State:
        return {"att_gru": self.att_fc.weight.new_zeros(batch_size, 1, self.att_gru.hidden_size)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.att_gru(x.square().mean(dim=(2, 3))[None], state["att_gru"])
        return x * torch.sigmoid(self.att_fc(hidden.flatten(1))).view(1, -1, 1, 1), {"att_gru": hidden}


class Gate(Stateful):
    """TRALite on (1, C, 1, F), as `Attention`: its two convolutions are one product with energies of three frames."""

    def __init__(self, tra: light_v3.TemporalGate, positions: Tensor, channels: int, recurrence: str):
        super().__init__()
        self.memory, self.channels = tra.dw.memory, channels
        pointwise = tra.pw.weight.flatten(1)  # (C', C)
        taps = pointwise[:, :, None] * tra.dw.weight[None, :, 0]  # (C', C, 3)
        taps = spread(taps.transpose(0, 1), positions, channels).transpose(0, 1)
        bias = tra.pw.bias + pointwise @ tra.dw.bias
        self.pw = _open_elsewhere(taps.flatten(1), bias, positions, channels)

    def initial_state(self, batch_size: int) -> State:
        return {"dw": self.pw.weight.new_zeros(batch_size, self.channels, self.memory)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        energies = torch.cat([state["dw"], x.square().mean(dim=3)], dim=2)  # (1, C, 3)
        return x * torch.sigmoid(self.pw(energies.flatten(1))).view(1, -1, 1, 1), {"dw": energies[..., 1:]}


def _open_elsewhere(weight: Tensor, bias: Tensor, positions: Tensor, channels: int) -> nn.Linear:
    return linear(spread(weight, positions, channels), spread(bias, positions, channels, fill=OPEN))


GATES = {gtcrn.TemporalRecurrentAttention: Attention, light_v3.TemporalGate: Gate}


class ShuffledBlock(Stateful):
    """A GTConvBlock of all channels, in which nothing is cut, shuffled and put together again.

    Half of the channels used to pass by: now the first convolution has zeros for them, and where they go after the
    shuffle, to every second channel, a convolution of ones and zeros takes them.
    """

    def __init__(self, block: gtcrn.GTConvBlock | micro.GTConvBlock, recurrence: str):
        super().__init__()
        channels = block.depth_conv.out_channels
        half = channels // 2
        even = torch.arange(0, channels, 2)
        point_conv1, point_conv2 = (rewrite(conv, recurrence) for conv in (block.point_conv1, block.point_conv2))
        first = point_conv1.weight
        if hasattr(block, "sfe"):  # neighbours that were stacked are taps
            first = first.unflatten(1, (half, 3)).movedim(2, -1).flatten(3)
        first = torch.cat([first, torch.zeros_like(first)], dim=1)
        self.point_conv1 = convolution(first, point_conv1.bias, padding=(0, first.shape[-1] // 2))
        self.point_act = block.point_act
        self.depth_conv = block.depth_conv
        self.depth_act = block.depth_act
        self.point_conv2 = convolution(
            spread(point_conv2.weight, even, channels), spread(point_conv2.bias, even, channels)
        )
        passing = torch.eye(channels)[half:, :, None, None]
        self.passing = convolution(spread(passing, even + 1, channels))
        self.tra = GATES[type(block.tra)](block.tra, even, channels, recurrence)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, depth_conv = self.depth_conv(self.point_act(self.point_conv1(x)), state["depth_conv"])
        y = self.point_conv2(self.depth_act(y)) + self.passing(x)
        y, tra = self.tra(y, state["tra"])
        return y, {"depth_conv": depth_conv, "tra": tra}


@replacement.register
def replace_gtcrn_gt_conv_block(block: gtcrn.GTConvBlock, recurrence: str) -> ShuffledBlock:
    return ShuffledBlock(block, recurrence)


@replacement.register
def replace_micro_gt_conv_block(block: micro.GTConvBlock, recurrence: str) -> ShuffledBlock:
    return ShuffledBlock(block, recurrence)


@replacement.register
def replace_gt_conv_lite(block: light_v3.GTConvLite, recurrence: str) -> light_v3.GTConvLite:
    """Make one convolution of depthwise and pointwise: for few channels an operator costs more than multiplications."""
    depthwise = block.ds
    dense = CausalConv2d(
        depthwise.in_channels,
        block.pw.out_channels,
        depthwise.kernel_size,
        n_freqs=depthwise.n_freqs,
        padding_freq=depthwise.padding[1],
        dilation=depthwise.dilation[0],
    )
    dense.weight, dense.bias = nn.Parameter(block.pw.weight * depthwise.weight.transpose(0, 1)), block.pw.bias
    block.ds, block.pw = dense, nn.Identity()
    channels = dense.out_channels
    block.tra = GATES[type(block.tra)](block.tra, torch.arange(channels), channels, recurrence)
    return block


@replacement.register
def replace_separable_block(block: light_v3.SeparableBlock, recurrence: str) -> light_v3.SeparableBlock:
    """Make one convolution of depthwise and pointwise, as `replace_gt_conv_lite` does."""
    depthwise, pointwise = block.dw, block.pw
    if isinstance(depthwise, nn.ConvTranspose2d):
        dense = nn.ConvTranspose2d(
            depthwise.in_channels,
            pointwise.out_channels,
            depthwise.kernel_size,
            stride=depthwise.stride,
            padding=depthwise.padding,
        )
        dense.weight, dense.bias = nn.Parameter(depthwise.weight * pointwise.weight.transpose(0, 1)), pointwise.bias
    else:
        dense = convolution(
            pointwise.weight * depthwise.weight.transpose(0, 1),
            pointwise.bias,
            stride=depthwise.stride,
            padding=depthwise.padding,
        )
    block.dw, block.pw = dense, nn.Identity()
    return block


class DualPath(Stateful):
    """A dual-path block on (F, C): GRUs over frequency, then a step along time for all bins at once.

    join_intra, join_inter: (x, what the GRUs make of it) -> the sum, normalised as the model does.
    """

    def __init__(self, intra: nn.Module, join_intra: nn.Module, inter: GRUStep, join_inter: nn.Module, n_freqs: int):
        super().__init__()
        self.intra, self.join_intra = intra, join_intra
        self.inter, self.join_inter = inter, join_inter
        self.n_freqs = n_freqs

    def initial_state(self, batch_size: int) -> State:
        return {"inter": self.inter.old.weight.new_zeros(batch_size, self.n_freqs, self.inter.hidden_size)}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return (1, C, 1, F) for (1, C, 1, F), and the next state."""
        x = x.permute(0, 2, 3, 1).reshape(self.n_freqs, -1)
        x = self.join_intra(x, self.intra(x))
        hidden = self.inter(x, state["inter"].flatten(0, 1))
        x = self.join_inter(x, hidden)
        return x.reshape(1, 1, self.n_freqs, -1).permute(0, 3, 1, 2), {"inter": hidden[None]}


class AddNormed(nn.Module):
    """A sum with a normalised projection: x + norm(linear(y))."""

    def __init__(self, projection: nn.Linear, norm: nn.LayerNorm):
        super().__init__()
        self.projection, self.norm = projection, norm

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.norm(self.projection(y))


class NormAdded(AddNormed):
    """A normalised sum with a projection: norm(x + linear(y))."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + self.projection(y))


@replacement.register
def replace_dpgrnn(block: gtcrn.DPGRNN, recurrence: str) -> DualPath:
    grus = block.intra_rnn.rnn1, block.intra_rnn.rnn2
    n_freqs = block.intra_ln.normalized_shape[0]
    up, down = ([gru_weights(gru, suffix) for gru in grus] for suffix in ("", "_reverse"))
    # both directions of each GRU stood together, now both GRUs of each direction
    by_gru = block.intra_fc.weight.unflatten(1, (2, 2, -1))
    intra_fc = linear(by_gru.transpose(1, 2).flatten(1), block.intra_fc.bias)
    return DualPath(
        SCANS[recurrence](up, down, n_freqs),
        AddNormed(intra_fc, block.intra_ln),
        GRUStep(side_by_side([gru_weights(gru) for gru in (block.inter_rnn.rnn1, block.inter_rnn.rnn2)])),
        AddNormed(block.inter_fc, block.inter_ln),
        n_freqs,
    )


@replacement.register
def replace_bottleneck_dpgrnn(block: light_v3.BottleneckDPGRNN, recurrence: str) -> DualPath:
    """Fold the projection into the bottleneck into the GRUs behind it."""

    def projected(gru: nn.GRU, suffix: str = "") -> GRUWeights:
        weights = gru_weights(gru, suffix)
        return weights._replace(input=weights.input @ block.pre.weight)

    down = [projected(block.intra, "_reverse")] if block.intra.bidirectional else []
    return DualPath(
        SCANS[recurrence]([projected(block.intra)], down, block.inter.n_freqs),
        NormAdded(block.post, block.ln1),
        GRUStep(projected(block.inter)),
        NormAdded(block.post2, block.ln2),
        block.inter.n_freqs,
    )


class MaskNetwork(StreamingModel):
    """An ERBMaskNetwork for one frame."""

    def __init__(self, network: ERBMaskNetwork):
        super().__init__()
        self.erb = network.erb
        # (channel, neighbour) as a convolution
        stacked = isinstance(network.features, gtcrn.SubbandFeatures)
        self.features = convolution(torch.eye(9).view(9, 3, 1, 3), padding=(0, 1)) if stacked else network.features
        self.encoder, self.dual_path, self.decoder = network.encoder, network.dual_path, network.decoder
        self.masked = ComplexMask()

    def forward(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the enhanced spectrum (1, 2, 1, bins) of a frame, and the next state."""
        state = self.start(spec.shape[0], state)
        bands = self.erb.analysis(torch.cat([magnitude(spec), spec], dim=1))
        skips, encoder = self.encoder(self.features(bands), state["encoder"])
        x, dual_path = self.dual_path(skips[-1], state["dual_path"])
        mask, decoder = self.decoder(x, skips, state["decoder"])
        enhanced = self.masked(self.erb.synthesis(mask), spec)
        return enhanced, {"encoder": encoder, "dual_path": dual_path, "decoder": decoder}


@replacement.register
def replace_erb_mask_network(network: ERBMaskNetwork, recurrence: str) -> MaskNetwork:
    return MaskNetwork(network)


@replacement.register
def replace_ulunas(network: ulunas.ULUNAS, recurrence: str) -> ulunas.ULUNAS:
    """Leave it as it is: its mask is real, and it sees magnitudes alone."""
    return network
