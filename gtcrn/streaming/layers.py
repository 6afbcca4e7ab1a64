"""Causal convolutions and recurrent layers with explicit state.

They subclass torch's own layers and add no parameters, so published weights load unchanged.
Time is always dimension 2 of a convolution's input: (B, C, T) or (B, C, T, F).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gtcrn import kernels
from gtcrn.streaming.state import State, Stateful


class _TimeConvolution(Stateful):
    """The base of the convolutions. An output depends on `reach` = (kernel - 1) · dilation frames besides its own.

    causal:      memory = reach, the past is concatenated in front       [ . . . . | x0 x1 ... ]
    not causal:  lookahead = reach / 2, torch pads zeros on both sides; no memory, since it cannot stream
    """

    weight: Tensor
    in_channels: int

    def _set_reach(self, reach: int, causal: bool) -> None:
        self.memory = reach if causal else 0
        self.lookahead = 0 if causal else reach // 2

    def _with_past(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x` (B, C, T, ...) with the past (B, C, memory, ...) in front of it, and the next past."""
        if not self.memory:
            # contiguous, because torch's bfloat16 gradients of dilated depthwise kernels are wrong for a permuted x
            return x.contiguous() if self.training else x, past
        x = torch.cat([past, x], dim=2)
        return x, x[:, :, x.shape[2] - self.memory :]


class CausalConv1d(_TimeConvolution, nn.Conv1d):
    """A Conv1d over time: (B, C, T), past (B, C, memory) -> (B, C', T / stride), next past.

    T is a multiple of the stride; the newest sample that an output depends on is the first of its stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = True,
    ):
        reach = (kernel_size - 1) * dilation
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if causal else reach // 2,
            dilation=dilation,
            groups=groups,
        )
        self._set_reach(reach, causal)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.weight.new_zeros(batch_size, self.in_channels, self.memory)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x, next_past = self._with_past(x, past)
        return super().forward(x), next_past


class CausalConvTranspose1d(_TimeConvolution, nn.ConvTranspose1d):
    """A ConvTranspose1d over time: (B, C, T), past (B, C, memory) -> (B, C', T · stride), next past.

    y[t] = sum_j w[t - j · stride] · x[j], tap 0 the newest. The contribution of older inputs to the output is
    computed from them again, not carried as an overlap.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int):
        memory = (kernel_size - 1) // stride
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            # torch cuts as much from the end as from the beginning. At the beginning that is the part that the past
            # contributes to; at the end fewer samples are incomplete, and output_padding keeps the others
            padding=memory * stride,
            output_padding=(memory + 1) * stride - kernel_size,
        )
        self._set_reach(memory, causal=True)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.weight.new_zeros(batch_size, self.in_channels, self.memory)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x, next_past = self._with_past(x, past)
        return super().forward(x), next_past


class _TimeFrequencyConvolution(_TimeConvolution):
    """The base of the convolutions over time and frequency: (B, C, T, F), past (B, C, memory, F) -> (B, C', T, F'),
    next past.

    kernel_size: (time, frequency). dilation: in time. padding_freq: on both sides of frequency. stride_freq: by which
    frequency gets shorter, or longer by a transposed one. n_freqs: F of the input, for the state's shape.
    """

    _padding_time: Callable[[int, bool], int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        n_freqs: int,
        padding_freq: int = 0,
        stride_freq: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = True,
    ):
        reach = (kernel_size[0] - 1) * dilation
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=(1, stride_freq),
            padding=(self._padding_time(reach, causal), padding_freq),
            dilation=(dilation, 1),
            groups=groups,
            bias=bias,
        )
        self.n_freqs = n_freqs
        self._set_reach(reach, causal)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.weight.new_zeros(batch_size, self.in_channels, self.memory, self.n_freqs)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x, next_past = self._with_past(x, past)
        return super().forward(x), next_past


class CausalConv2d(_TimeFrequencyConvolution, kernels.Conv2d):  # type: ignore[misc]
    """A Conv2d over time and frequency that takes its past as an argument; see `_TimeFrequencyConvolution`."""

    @staticmethod
    def _padding_time(reach: int, causal: bool) -> int:
        return 0 if causal else reach // 2


class CausalConvTranspose2d(_TimeFrequencyConvolution, kernels.ConvTranspose2d):  # type: ignore[misc]
    """A ConvTranspose2d with stride 1 in time: y[t] = sum_k w[k] · x[t - k · dilation], tap 0 the newest.

    It takes its past as an argument; see `_TimeFrequencyConvolution`.
    """

    @staticmethod
    def _padding_time(reach: int, causal: bool) -> int:
        # a transposed kernel spreads over `reach` frames beyond its input, and its padding cuts them off again at
        # both ends: all of them if it is causal, else half of them
        return reach if causal else reach // 2


class CausalGRU(Stateful, kernels.GRU):
    """A GRU along time with one or more layers: (B, T, C), state (B, layers, H) -> (B, T, H), next state."""

    weight_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1):
        super().__init__(input_size, hidden_size, num_layers)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.weight_hh_l0.new_zeros(batch_size, self.num_layers, self.hidden_size)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        y, hidden = super().forward(x, _layers_first(hidden))
        return y, hidden.transpose(0, 1)


class CausalLSTM(Stateful, nn.LSTM):
    """An LSTM along time, of one or more layers: (B, T, C), state -> (B, T, H), next state.

    The state is {"hidden": (B, layers, H), "cell": (B, layers, H)}. dropout: between layers, in training.
    """

    weight_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0):
        # torch warns about dropout in a single layer
        dropout = dropout if num_layers > 1 else 0.0
        super().__init__(input_size, hidden_size, num_layers, batch_first=True, dropout=dropout)

    def initial_state(self, batch_size: int) -> State:
        shape = batch_size, self.num_layers, self.hidden_size
        return {name: self.weight_hh_l0.new_zeros(shape) for name in ("hidden", "cell")}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.is_cpu and torch.is_autocast_enabled("cpu"):  # many processors have no LSTM in half precision
            with torch.autocast("cpu", enabled=False):
                return self.forward(x.float(), state)
        y, (hidden, cell) = super().forward(x, (_layers_first(state["hidden"]), _layers_first(state["cell"])))
        return y, {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}


def _layers_first(state: Tensor) -> Tensor:
    """Return a state (B, layers, H), in which the batch is first, as torch expects it: (layers, B, H)."""
    return state.transpose(0, 1).contiguous()


class TimeGRU(CausalGRU):
    """A GRU along time, one independent sequence per frequency with shared weights.

    (B, T, F, C), hidden state (B, F, H) -> (B, T, F, H), next hidden state.
    """

    def __init__(self, input_size: int, hidden_size: int, n_freqs: int):
        super().__init__(input_size, hidden_size)
        self.n_freqs = n_freqs

    def initial_state(self, batch_size: int) -> Tensor:
        return self.weight_hh_l0.new_zeros(batch_size, self.n_freqs, self.hidden_size)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        y, last = super().forward(x.transpose(1, 2), hidden.flatten(0, 1)[:, None])  # (B, F, T, H), (B·F, 1, H)
        return y.transpose(1, 2), last.view_as(hidden)
