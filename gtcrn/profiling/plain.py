"""GTCRN, Light v3 and Micro as their papers draw them and a script would write them: a yardstick, and an oracle.

They take whole utterances alone, by PyTorch's own operators: a GRU for each group, unfolded bands, zeros in time where
our layers take their past. Only the STFT and the ERB bands are those of the models themselves. Profiles compare speed
with this form, and tests the numbers.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtcrn.dsp.erb import ERB
from gtcrn.models import blocks, gtcrn, light_v3, micro
from gtcrn.models.enhancer import Enhancer
from gtcrn.streaming import Stateful


def of(model: Enhancer) -> Enhancer | None:
    """Return the plain form of a model with a copy of its weights by the same names, None if it is of another system.

    It cannot stream.
    """
    if type(model.core) not in (gtcrn.GTCRN, light_v3.LightV3, micro.Micro):
        return None
    form = copy.deepcopy(model)
    form.core = _plain(form.core)
    form.load_state_dict(model.state_dict())
    return form.train(model.training)


def _plain(ours: nn.Module) -> nn.Module:
    """Return the plain form of a part, with its sizes; layers of torch's own are taken as they are."""
    if type(ours) in _FORMS:
        return _FORMS[type(ours)](ours)
    if isinstance(ours, nn.Sequential):
        return nn.Sequential(*map(_plain, ours))
    if type(ours).__module__.startswith("torch.nn.") or isinstance(ours, ERB):
        return ours
    if isinstance(ours, nn.GRU):
        layer = nn.GRU(ours.input_size, ours.hidden_size, batch_first=True, bidirectional=ours.bidirectional)
    elif isinstance(ours, nn.Linear):
        layer = nn.Linear(ours.in_features, ours.out_features, bias=ours.bias is not None)
    elif isinstance(ours, nn.LayerNorm):
        layer = nn.LayerNorm(ours.normalized_shape, eps=ours.eps)
    else:
        layer = _convolution(ours)
    return layer.to(next(ours.parameters()).dtype)


class _ZeroPadded:
    """A convolution over time, dimension 2, with zeros before its input or on both sides, so many frames as `beyond`
    says."""

    beyond: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0) * (x.dim() - 3) + self.beyond))


class _Conv1d(_ZeroPadded, nn.Conv1d):
    pass


class _Conv2d(_ZeroPadded, nn.Conv2d):
    pass


class _ConvTranspose2d(_ZeroPadded, nn.ConvTranspose2d):
    pass


def _convolution(ours: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    kind = next(kind for kind in (_Conv1d, _Conv2d, _ConvTranspose2d) if isinstance(ours, kind.__bases__[1]))
    over_time, padding = isinstance(ours, Stateful), ours.padding
    if over_time:
        # what a transposed kernel spreads beyond both ends in time is cut off
        reach = (ours.kernel_size[0] - 1) * ours.dilation[0] if kind is _ConvTranspose2d else 0
        padding = reach, *padding[1:]
    layer = (kind if over_time else kind.__bases__[1])(
        ours.in_channels,
        ours.out_channels,
        ours.kernel_size,
        stride=ours.stride,
        padding=padding,
        dilation=ours.dilation,
        groups=ours.groups,
        bias=ours.bias is not None,
    )
    if over_time:
        layer.beyond = ours.memory + ours.lookahead, ours.lookahead
    return layer


class _Block(nn.Module):
    """A block whose layers are the plain forms of those of one of our blocks, by the same names."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        for name, layer in ours.named_children():
            self.add_module(name, _plain(layer))


class _SubbandFeatures(_Block):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames, bands = x.shape
        return F.unfold(x, (1, 3), padding=(0, 1)).view(batch, 3 * channels, frames, bands)


class _ConvBlock(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class _TemporalRecurrentAttention(_Block):
    def forward(self, x: Tensor) -> Tensor:
        energy = x.pow(2).mean(dim=3)  # (B, C, T)
        gate = torch.sigmoid(self.att_fc(self.att_gru(energy.transpose(1, 2))[0]))  # (B, T, C)
        return x * gate.transpose(1, 2).unsqueeze(3)


class _GTConvBlock(_Block):
    def forward(self, x: Tensor) -> Tensor:
        x, bypass = torch.chunk(x, 2, dim=1)
        if hasattr(self, "sfe"):  # Micro has none
            x = self.sfe(x)
        x = self.point_act(self.point_bn1(self.point_conv1(x)))
        x = self.depth_act(self.depth_bn(self.depth_conv(x)))
        x = self.tra(self.point_bn2(self.point_conv2(x)))
        return torch.stack([x, bypass], dim=2).flatten(1, 2)  # shuffles the channels


class _GroupedGRU(_Block):
    def forward(self, x: Tensor) -> Tensor:
        """Run each GRU over half of the channels: (N, L, C) -> (N, L, H)."""
        first, second = torch.chunk(x, 2, dim=2)
        return torch.cat([self.rnn1(first)[0], self.rnn2(second)[0]], dim=2)


class _DPGRNN(_Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, T, F, C)
        batch, frames, bands, channels = x.shape
        y = self.intra_fc(self.intra_rnn(x.reshape(batch * frames, bands, channels)))
        x = x + self.intra_ln(y.view(batch, frames, bands, channels))
        y = x.transpose(1, 2).reshape(batch * bands, frames, channels)
        y = self.inter_fc(self.inter_rnn(y)).view(batch, bands, frames, channels)
        x = x + self.inter_ln(y.transpose(1, 2))
        return x.permute(0, 3, 1, 2)


class _SeparableBlock(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pw(self.dw(x))))


class _TemporalGate(_Block):
    def forward(self, x: Tensor) -> Tensor:
        energy = x.pow(2).mean(dim=3)  # (B, C, T)
        return x * torch.sigmoid(self.pw(self.dw(energy))).unsqueeze(3)


class _GTConvLite(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.tra(self.act(self.bn(self.pw(self.ds(x)))))


class _BottleneckDPGRNN(_Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, T, F, C)
        batch, frames, bands, _ = x.shape
        y = self.post(self.intra(self.pre(x).view(batch * frames, bands, -1))[0])
        x = self.ln1(x + y.view(x.shape))
        y = self.pre(x).transpose(1, 2).reshape(batch * bands, frames, -1)
        y = self.post2(self.inter(y)[0]).view(batch, bands, frames, -1)
        x = self.ln2(x + y.transpose(1, 2))
        return x.permute(0, 3, 1, 2)


class _TemporalBlock(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.act3(x + self.bn3(self.conv3(y)))


class _Sequence(_Block):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():
            x = block(x)
        return x


class _Encoder(_Block):
    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for block in self.children():
            x = block(x)
            outputs.append(x)
        return outputs


class _Decoder(_Block):
    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for block, skip in zip(self.children(), reversed(skips)):
            x = block(x + skip)
        return x


class _Network(_Block):
    def forward(self, spec: Tensor) -> tuple[Tensor, None]:
        """Return the enhanced spectrum (B, 2, T, bins), and None in place of a state."""
        real, imaginary = spec[:, 0], spec[:, 1]
        magnitude = torch.sqrt(real**2 + imaginary**2 + 1e-12)
        bands = self.erb.analysis(torch.stack([magnitude, real, imaginary], dim=1))  # (B, 3, T, bands)
        skips = self.encoder(self.features(bands))
        mask = self.erb.synthesis(self.decoder(self.dual_path(skips[-1]), skips))  # (B, 2, T, bins)
        enhanced = [mask[:, 0] * real - mask[:, 1] * imaginary, mask[:, 1] * real + mask[:, 0] * imaginary]
        return torch.stack(enhanced, dim=1), None


_FORMS: dict[type[nn.Module], type[_Block]] = {
    blocks.Decoder: _Decoder,
    blocks.Encoder: _Encoder,
    blocks.StreamingSequential: _Sequence,
    gtcrn.ConvBlock: _ConvBlock,
    gtcrn.DPGRNN: _DPGRNN,
    gtcrn.GTCRN: _Network,
    gtcrn.GTConvBlock: _GTConvBlock,
    gtcrn.GroupedGRU: _GroupedGRU,
    gtcrn.SubbandFeatures: _SubbandFeatures,
    gtcrn.TemporalRecurrentAttention: _TemporalRecurrentAttention,
    light_v3.BottleneckDPGRNN: _BottleneckDPGRNN,
    light_v3.GTConvLite: _GTConvLite,
    light_v3.LightV3: _Network,
    light_v3.SeparableBlock: _SeparableBlock,
    light_v3.TemporalGate: _TemporalGate,
    micro.ConvBlock: _ConvBlock,
    micro.GTConvBlock: _GTConvBlock,
    micro.Micro: _Network,
    micro.TemporalBlock: _TemporalBlock,
}
