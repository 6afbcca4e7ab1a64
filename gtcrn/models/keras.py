"""Reader of DTLN's weights as Keras saves them (HDF5), which gives them the names and layouts of its PyTorch port."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gtcrn.errors import UserError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def read_dtln(path: Path) -> dict[str, Tensor]:
    """Return DTLN's weights from a Keras file, by their names in its PyTorch port.

    Raises `UserError` if h5py is missing, the file is damaged or it holds another network's layers.
    """
    layers = _read_layers(path)
    lstms = [layer for layer in layers if "recurrent_kernel" in layer]
    dense = [layer for layer in layers if layer.keys() == {"kernel", "bias"} and layer["kernel"].dim() == 2]
    convolutions = [layer for layer in layers if layer.keys() == {"kernel"} and layer["kernel"].dim() == 3]
    norms = [layer for layer in layers if layer.keys() == {"gamma", "beta"}]
    if not (lstms and len(lstms) % 2 == 0 and len(dense) == len(convolutions) == 2 and len(norms) in (1, 2)):
        raise UserError(
            f"checkpoint {path}: Keras weights of {len(lstms)} LSTM, {len(dense)} dense, {len(convolutions)} 1-D "
            f"convolution and {len(norms)} normalisation layers; expected DTLN's: an even number, 2, 2, and 1 or 2"
        )
    weights = {}
    per_core = len(lstms) // 2
    for index, lstm in enumerate(lstms):  # gates are in torch's order, but there is one bias where torch has two
        prefix = f"sep{1 + index // per_core}.rnn{1 + index % per_core}"
        weights[f"{prefix}.weight_ih_l0"] = lstm["kernel"].T
        weights[f"{prefix}.weight_hh_l0"] = lstm["recurrent_kernel"].T
        weights[f"{prefix}.bias_ih_l0"] = torch.zeros_like(lstm["bias"])
        weights[f"{prefix}.bias_hh_l0"] = lstm["bias"]
    for name, layer in zip(("sep1.dense", "sep2.dense"), dense):
        weights[f"{name}.weight"] = layer["kernel"].T
        weights[f"{name}.bias"] = layer["bias"]
    for name, layer in zip(("encoder_conv1", "decoder_conv1"), convolutions):
        weights[f"{name}.weight"] = layer["kernel"].permute(2, 1, 0)
    for name, layer in zip(("encoder_norm1", "norm_stft"), reversed(norms)):
        weights |= {f"{name}.{part}": value[None, None] for part, value in layer.items()}
    return weights


def _read_layers(path: Path) -> list[dict[str, Tensor]]:
    """Return {"kernel": …, "bias": …} of every layer that has weights, in the order of the network."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"checkpoint {path}: a Keras file (HDF5), which takes h5py to read: pip install h5py") from None
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)  # a file of a whole model keeps its weights in this group
            groups = [root[name] for name in root.attrs["layer_names"]]
            layers = [
                {
                    dataset.name.rpartition("/")[2].removesuffix(":0"): torch.from_numpy(dataset[()])
                    for dataset in (group[name] for name in group.attrs["weight_names"])
                }
                for group in groups
            ]
    except Exception as error:  # a damaged file may make the library raise anything
        raise UserError(f"checkpoint {path}: a damaged HDF5 file, or not weights saved by Keras 2") from error
    return [layer for layer in layers if layer]
