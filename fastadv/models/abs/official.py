"""The ten state dicts the paper's authors published, as stacked decoders with BatchNorm folded in."""

import os
from pathlib import Path

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.models.abs.decoder import NORM, fold_batch_norm
from fastadv.models.weights import read_weights


def _expected(layers: int) -> set[str]:
    names = {f"Decoder.conv_{i}.{part}" for i in range(layers) for part in ("weight", "bias")}
    return names | {f"Decoder.bn_{i}.{part}" for i in range(layers - 1) for part in NORM}


def read_official(
    folder: str | os.PathLike[str], classes: int = 10, layers: int = 4
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the layers' weights [K, cin, cout, k, k] and biases [K, cout] in ABS_0.net .. ABS_9.net.

    InputError for a missing file, CorruptFileError for a damaged one or one with missing or foreign decoder
    keys.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected the folder that holds ABS_0.net .. ABS_{classes - 1}.net, got no folder; "
            "check the path"
        )
    states = []
    for k in range(classes):
        path = folder / f"ABS_{k}.net"
        tensors, _ = read_weights(path)
        decoder = {
            name: value
            for name, value in tensors.items()
            if name.startswith("Decoder.") and not name.endswith("num_batches_tracked")
        }
        missing, foreign = _expected(layers) - decoder.keys(), decoder.keys() - _expected(layers)
        if missing or foreign:
            raise CorruptFileError(
                f"{path}: expected the decoder of one class ({layers} layers), but it lacks "
                f"{sorted(missing)[:3]} and holds the foreign {sorted(foreign)[:3]}; "
                "give the authors' published file"
            )
        states.append(decoder)

    def stacked(name: str) -> Tensor:
        shapes = {tuple(state[name].shape) for state in states}
        if len(shapes) > 1:
            raise CorruptFileError(
                f"{folder}: expected {name} of one shape in every class, got {sorted(shapes)}; "
                "give files of one training"
            )
        return torch.stack([state[name].float() for state in states])

    weights, biases = [], []
    for i in range(layers):
        weight, bias = stacked(f"Decoder.conv_{i}.weight"), stacked(f"Decoder.conv_{i}.bias")
        if i < layers - 1:
            weight, bias = fold_batch_norm(
                weight, bias, *(stacked(f"Decoder.bn_{i}.{part}") for part in NORM)
            )
        weights.append(weight.contiguous())
        biases.append(bias.contiguous())
    return weights, biases
