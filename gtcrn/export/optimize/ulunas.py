"""Rules for UL-UNAS: gates of one frame, and channel shuffles that are the order of a convolution's outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.export.optimize.recurrent import SCANS, STEPS, gru_weights
from gtcrn.export.optimize.rules import replacement
from gtcrn.export.optimize.weights import linear
from gtcrn.models import ulunas
from gtcrn.streaming import Stateful
from gtcrn.streaming.state import State


class BandScan(nn.Module):
    """The gate over frequency but for its sigmoid: energies of bands (1, 1, F) -> (1, F).

    All that is linear, the order in which the two directions take groups of bands included, is one product before the
    GRUs and one behind them.
    """

    def __init__(self, fa: ulunas.FrequencyAttention, recurrence: str):
        super().__init__()
        n_freqs, size = fa.n_freqs, ulunas.BAND_GROUP
        groups = -(-n_freqs // size)
        self.scan = SCANS[recurrence]([gru_weights(fa.gru)], [gru_weights(fa.gru, "_reverse")], groups)
        bands = F.pad(torch.eye(n_freqs), (0, groups * size - n_freqs)).view(-1, groups, size)
        paired = [self.scan.paired(band) for band in bands]
        self.shape = paired[0].shape
        self.before = linear(torch.stack(paired, dim=-1).flatten(0, -2))
        units = torch.eye(2 * size * groups).view(-1, *self.shape[:-1], 2 * size)
        gates = [F.linear(self.scan.ordered(unit), fa.fc.weight).flatten()[:n_freqs] for unit in units]
        self.behind = linear(torch.stack(gates, dim=1), fa.fc.bias.repeat(groups)[:n_freqs])

    def forward(self, energy: Tensor) -> Tensor:
        hidden = self.scan.steps(self.before(energy).reshape(self.shape))
        return self.behind(hidden.reshape(1, -1))


class FrameGate(Stateful):
    """cTFA on (1, C, 1, F): a step of its GRU along time, and a scan of the one over frequency."""

    def __init__(self, attention: ulunas.TimeFrequencyAttention, recurrence: str):
        super().__init__()
        self.att_gru = STEPS[recurrence](gru_weights(attention.tra.att_gru))
        self.att_fc = attention.tra.att_fc
        self.fa = BandScan(attention.fa, recurrence)

    def initial_state(self, batch_size: int) -> State:
        return {"tra": {"att_gru": self.att_fc.weight.new_zeros(batch_size, 1, self.att_gru.hidden_size)}}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        energy = x.square()
        hidden = self.att_gru(energy.mean(dim=(2, 3))[None], state["tra"]["att_gru"])
        over_time = torch.sigmoid(self.att_fc(hidden.flatten(1))).view(1, -1, 1, 1)
        return x * over_time * torch.sigmoid(self.fa(energy.mean(dim=1))), {"tra": {"att_gru": hidden}}


class ShiftedPReLU(nn.Module):
    """An affine PReLU with one operator less: PReLU(c · x) + b, of a slope for every channel and band."""

    def __init__(self, scale: Tensor, slope: Tensor, bias: Tensor):
        super().__init__()
        for name, part in dict(scale=scale, slope=slope, bias=bias).items():
            self.register_buffer(name, part[:, None], persistent=False)  # (C, 1, F)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * x
        if torch.onnx.is_in_onnx_export():  # torch's own has no slopes for bands
            return torch.onnx.ops.symbolic("PRelu", (x, self.slope), dtype=x.dtype, shape=x.shape) + self.bias
        above = F.relu(x)
        return above + self.slope * (x - above) + self.bias


@replacement.register
def replace_affine_prelu(act: ulunas.AffinePReLU, recurrence: str) -> nn.Module:
    """Turn it into a PReLU of c · x, unless it gives nothing but negative numbers somewhere, which no PReLU does.

    It has the slopes p = a + 1 above zero and n = a + s below. Where p > 0, c = p and the PReLU's slope is n / p; where
    both are negative, c = n turns x round.
    """
    above, below = act.affine_weight + 1, act.affine_weight + act.slope_weight[:, None]
    turned = above <= 0
    if (turned & (below >= 0)).any():
        return act
    scale = torch.where(turned, below, above)
    return ShiftedPReLU(scale, torch.where(turned, above, below) / scale, act.affine_bias)


@replacement.register
def replace_attention(attention: ulunas.TimeFrequencyAttention, recurrence: str) -> FrameGate:
    return FrameGate(attention, recurrence)


@replacement.register
def replace_shuffle(shuffle: ulunas.Shuffle, recurrence: str) -> nn.Module:
    return shuffle if shuffle.groups > 1 else nn.Identity()


@replacement.register
def replace_separable_block(block: ulunas.SeparableBlock, recurrence: str) -> ulunas.SeparableBlock:
    _order_outputs(block.point, block.shuffle, recurrence)
    block.shuffle = nn.Identity()
    return block


@replacement.register
def replace_mobile_block(block: ulunas.MobileBlock, recurrence: str) -> ulunas.MobileBlock:
    _order_outputs(block.point1, block.shuffle1, recurrence)
    block.shuffle1 = nn.Identity()
    if not block.residual:
        _order_outputs(block.point2, block.shuffle2, recurrence)
        block.shuffle2 = nn.Identity()
    return block


def _order_outputs(unit: ulunas.ConvUnit, shuffle: ulunas.Shuffle, recurrence: str) -> None:
    """Change a pointwise unit so that its output is what the shuffle would make of it."""
    channels = torch.arange(unit.conv.out_channels)
    order = shuffle(channels[None, :, None, None]).flatten()
    replacement(unit.conv, recurrence)  # without groups
    unit.conv.weight, unit.conv.bias = (nn.Parameter(part[order]) for part in (unit.conv.weight, unit.conv.bias))
    if isinstance(unit.act, ulunas.AffinePReLU):
        for name, part in list(unit.act.named_parameters()):
            setattr(unit.act, name, nn.Parameter(part[order]))
    if unit.attention is not None:
        gru, fc = unit.attention.tra.att_gru, unit.attention.tra.att_fc
        gru.weight_ih_l0 = nn.Parameter(gru.weight_ih_l0[:, order])
        fc.weight, fc.bias = (nn.Parameter(part[order]) for part in (fc.weight, fc.bias))
