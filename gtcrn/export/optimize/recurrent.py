"""Several GRUs as one: a step of them for many sequences, or a scan over frequency; and LSTMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtcrn.export.optimize.weights import linear
from gtcrn.streaming import CausalLSTM, Stateful
from gtcrn.streaming.state import State


class GRUWeights(NamedTuple):
    """The weights of a GRU: input (3H, C), hidden (3H, H), and their biases (3H,); the gates are reset, update, new."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor

    @property
    def hidden_size(self) -> int:
        return self.hidden.shape[1]


def gru_weights(gru: nn.GRU, suffix: str = "") -> GRUWeights:
    """Return the weights of a GRU's first layer. suffix: `_reverse` for its other direction."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return GRUWeights(*(getattr(gru, f"{name}_l0{suffix}") for name in names))


def side_by_side(grus: Sequence[GRUWeights]) -> GRUWeights:
    """Return independent GRUs as one, whose input and state are concatenations of theirs."""
    by_gate = [[part.chunk(3) for part in parts] for parts in zip(*grus)]  # of four tensors, of every GRU
    matrices = [torch.cat([torch.block_diag(*gate) for gate in zip(*parts)]) for parts in by_gate[:2]]
    biases = [torch.cat([torch.cat(gate) for gate in zip(*parts)]) for parts in by_gate[2:]]
    return GRUWeights(*matrices, *biases)


class GRUStep(nn.Module):
    """One step of a GRU for independent sequences: input (…, C) and state (…, H) give the next state (…, H)."""

    def __init__(self, weights: GRUWeights):
        super().__init__()
        self.hidden_size = weights.hidden_size
        (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n), (c_r, c_z, c_n) = (part.chunk(3) for part in weights)
        self.reset = linear(torch.cat([w_r, u_r], dim=1), b_r + c_r)
        self.update = linear(torch.cat([w_z, u_z], dim=1), b_z + c_z)
        self.new = linear(w_n, b_n)
        self.old = linear(u_n, c_n)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        both = torch.cat([x, hidden], dim=-1)
        reset, update = torch.sigmoid(self.reset(both)), torch.sigmoid(self.update(both))
        new = torch.tanh(self.new(x) + reset * self.old(hidden))
        return new + update * (hidden - new)


class GRULayer(nn.GRU):
    """Torch's GRU, which in ONNX is one operator: (T, 1, C) and state (1, 1, H) give (T, 1, H) and the next state."""

    def __init__(self, weights: GRUWeights):
        super().__init__(weights.input.shape[1], weights.hidden_size)
        _set_weights(self, weights, onnx_order=(1, 0, 2))

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        if torch.onnx.is_in_onnx_export():
            return _onnx_operator("GRU", self, x, [hidden], linear_before_reset=1)
        return super().forward(x, hidden)


class LSTMLayer(nn.LSTM):
    """A layer of torch's LSTM, which in ONNX is one operator.

    (T, 1, C), hidden and cell state (1, 1, H) give (T, 1, H), and the next hidden and cell state.
    """

    def __init__(self, lstm: nn.LSTM, number: int):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(lstm, f"{name}_l{number}") for name in names]
        super().__init__(weights[0].shape[1], lstm.hidden_size)
        _set_weights(self, weights, onnx_order=(0, 3, 1, 2))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if torch.onnx.is_in_onnx_export():
            return _onnx_operator("LSTM", self, x, [hidden, cell])
        y, (hidden, cell) = super().forward(x, (hidden, cell))
        return y, hidden, cell


def _set_weights(layer: nn.RNNBase, weights: Sequence[Tensor], onnx_order: Sequence[int]) -> None:
    """Set the weights of a layer, for torch and for ONNX. onnx_order: of the gates, by their numbers in torch."""
    for (name, _), part in zip(list(layer.named_parameters()), weights, strict=True):
        setattr(layer, name, nn.Parameter(part))
    w, r, *biases = ([part.chunk(len(onnx_order))[gate] for gate in onnx_order] for part in weights)
    for name, gates in {"onnx_w": w, "onnx_r": r, "onnx_b": [*biases[0], *biases[1]]}.items():
        layer.register_buffer(name, torch.cat(gates)[None], persistent=False)


def _onnx_operator(kind: str, layer: nn.RNNBase, x: Tensor, states: list[Tensor], **attributes) -> list[Tensor]:
    """Return the output and next states of a bare ONNX operator: torch's exporter would add slices and transposes."""
    y, *states = torch.onnx.ops.symbolic_multi_out(
        kind,
        (x, layer.onnx_w, layer.onnx_r, layer.onnx_b, None, *states),
        {"hidden_size": layer.hidden_size, **attributes},
        dtypes=[x.dtype] * (1 + len(states)),
        shapes=[(len(x), 1, 1, layer.hidden_size), *(state.shape for state in states)],
    )
    return [y.flatten(1, 2), *states]


class OperatorStep(nn.Module):
    """A GRUStep of one sequence, (1, 1, C), as one operator."""

    def __init__(self, weights: GRUWeights):
        super().__init__()
        self.hidden_size = weights.hidden_size
        self.gru = GRULayer(weights)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self.gru(x, hidden)[1]


STEPS = {"operator": OperatorStep, "unrolled": GRUStep}  # of one sequence


class OperatorScan(nn.Module):
    """GRUs over frequency, (F, C) -> (F, H): those that go up, then, if any, those that go down.

    All are one operator that goes up, over bins beside the same bins in reverse order.
    """

    def __init__(self, up: Sequence[GRUWeights], down: Sequence[GRUWeights], n_freqs: int):
        super().__init__()
        weights = side_by_side([*up, *down])
        self.gru = GRULayer(weights)
        self.register_buffer("start", torch.zeros(1, 1, weights.hidden_size), persistent=False)
        pairs = torch.stack([torch.arange(n_freqs), torch.arange(n_freqs).flip(0)], dim=1)  # of bins
        self.register_buffer("pairs", pairs.flatten(), persistent=False)
        self.register_buffer("parts", (2 * pairs + torch.arange(2)).flatten(), persistent=False)
        self.both = bool(down)

    def forward(self, x: Tensor) -> Tensor:
        return self.ordered(self.steps(self.paired(x)))

    def paired(self, x: Tensor) -> Tensor:
        """Return the input (F, 1, C') of the operator."""
        return x.index_select(0, self.pairs).reshape(len(x), 1, -1) if self.both else x[:, None]

    def steps(self, x: Tensor) -> Tensor:
        return self.gru(x, self.start)[0]

    def ordered(self, y: Tensor) -> Tensor:
        """Return the output (F, H) of what the operator gives, (F, 1, H)."""
        return y.reshape(2 * len(y), -1).index_select(0, self.parts).reshape(len(y), -1) if self.both else y.flatten(1)


class UnrolledScan(nn.Module):
    """GRUs over frequency with every step written out.

    The order of bins is reversed by a product, since not every runtime can do it otherwise.
    """

    def __init__(self, up: Sequence[GRUWeights], down: Sequence[GRUWeights], n_freqs: int):
        super().__init__()
        weights = side_by_side([*up, *down])
        size = weights.hidden_size
        # biases that no gate multiplies are added beforehand
        early, late = weights.hidden_bias.split([2 * size, size])
        self.input = linear(weights.input, weights.input_bias + torch.cat([early, torch.zeros_like(late)]))
        self.hidden = linear(weights.hidden, torch.cat([torch.zeros_like(early), late]))
        self.register_buffer("start", torch.zeros(1, size), persistent=False)
        self.register_buffer("turned", torch.eye(n_freqs).flip(0), persistent=False)
        self.sizes = [sum(weights.hidden_size for weights in side) for side in (up, down)]

    def forward(self, x: Tensor) -> Tensor:
        return self.ordered(self.steps(self.paired(x)))

    def paired(self, x: Tensor) -> Tensor:
        """Return bins beside the same bins in reverse order, if GRUs go down."""
        return torch.cat([x, self.turned @ x], dim=1) if self.sizes[1] else x

    def ordered(self, y: Tensor) -> Tensor:
        """Return what the steps give in the order of the bins."""
        if not self.sizes[1]:
            return y
        up, down = y.split(self.sizes, dim=1)
        return torch.cat([up, self.turned @ down], dim=1)

    def steps(self, x: Tensor) -> Tensor:
        size = self.start.shape[1]
        hidden, steps = self.start, []
        for gates in self.input(x).split(1):
            recurrent = self.hidden(hidden)
            reset, update = torch.sigmoid(gates[:, : 2 * size] + recurrent[:, : 2 * size]).chunk(2, dim=1)
            new = torch.tanh(gates[:, 2 * size :] + reset * recurrent[:, 2 * size :])
            hidden = new + update * (hidden - new)
            steps.append(hidden)
        return torch.cat(steps)


SCANS = {"operator": OperatorScan, "unrolled": UnrolledScan}


class LSTMStep(Stateful):
    """One step of LSTM layers, each one operator: (1, 1, C) and state give (1, 1, H) and the next state."""

    def __init__(self, lstm: CausalLSTM):
        super().__init__()
        self.hidden_size = lstm.hidden_size
        self.layers = nn.ModuleList(LSTMLayer(lstm, number) for number in range(lstm.num_layers))

    def initial_state(self, batch_size: int) -> State:
        shape = batch_size, len(self.layers), self.hidden_size
        return {name: self.layers[0].weight_hh_l0.new_zeros(shape) for name in ("hidden", "cell")}

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hiddens, cells = [], []
        for layer, hidden, cell in zip(self.layers, state["hidden"].split(1, dim=1), state["cell"].split(1, dim=1)):
            _, x, cell = layer(x, hidden, cell)  # of one step, the last hidden state is the output
            hiddens.append(x)
            cells.append(cell)
        return x, {"hidden": torch.cat(hiddens, dim=1), "cell": torch.cat(cells, dim=1)}
