"""The convolutional network that Schott et al. compare with, and the authors' published weights."""

import os
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.errors import CorruptFileError, InputError
from fastadv.models._common import Shape, check_batch, check_sizes, first_weights
from fastadv.models.binarized import THRESHOLD, binarize
from fastadv.models.weights import load_weights, read_weights

torch.fx.wrap("check_batch")


class SchottCNN(nn.Module):
    """Four convolutions, BatchNorm and ELU after the first three (249,228 parameters).

    Layer names are those of the published files. The substitute that the paper attacks for transfer has the
    width (32, 32, 64). With `binary` pixels are first set to 0 or 1 at the threshold 0.5 (1 at the threshold
    itself); the gradient passes straight through.
    """

    def __init__(
        self, shape: Shape = (1, 28, 28), classes: int = 10, *, width: tuple[int, int, int] = (20, 70, 256),
        binary: bool = False, seed: int | None = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(classes, shape, *width)
        # 28 -> 24 -> 11 -> 5 -> 1: the last kernel sees the whole image, whatever its size.
        rows, columns = (((size - 4 - 4) // 2 + 1 - 3) // 2 + 1 for size in shape[1:])
        if min(rows, columns) < 1:
            raise InputError(f"expected images of at least 12x12, got shape {tuple(shape)}; use small_cnn")
        self.shape, self.binary = tuple(shape), binary
        with first_weights(seed):
            self.conv_0 = nn.Conv2d(shape[0], width[0], 5)
            self.bn_0 = nn.BatchNorm2d(width[0])
            self.conv_1 = nn.Conv2d(width[0], width[1], 4, stride=2)
            self.bn_1 = nn.BatchNorm2d(width[1])
            self.conv_2 = nn.Conv2d(width[1], width[2], 3, stride=2)
            self.bn_2 = nn.BatchNorm2d(width[2])
            self.conv_3 = nn.Conv2d(width[2], classes, (rows, columns))

    __constants__, __jit_unused_properties__ = ("binary",), ("input_threshold",)

    @property
    def input_threshold(self) -> float | None:
        """Where pixels are binarized, as in `Binarized`; None without `binary`."""
        return THRESHOLD if self.binary else None

    def forward(self, x: Tensor) -> Tensor:
        x = check_batch(x, self.shape)
        if self.binary:
            x = binarize(x, THRESHOLD)
        x = F.elu(self.bn_0(self.conv_0(x)))
        x = F.elu(self.bn_1(self.conv_1(x)))
        x = F.elu(self.bn_2(self.conv_2(x)))
        logits: Tensor = self.conv_3(x).flatten(1)
        return logits

    @classmethod
    def from_official(cls, path: str | os.PathLike[str], *, binary: bool | None = None) -> Self:
        """Read the authors' `vanilla_cnn.net`, `binary_cnn.net` or `transfer_cnn.net`, in eval mode.

        The files do not say whether the input is binarized: with None, a name that begins with "binary" does.
        CorruptFileError for a damaged file, or one of another network.
        """
        path = Path(path)
        tensors, _ = read_weights(path)
        try:
            first, second, third, last = (tensors[f"conv_{i}.weight"].shape for i in range(4))
            model = cls(
                (first[1], 28, 28),
                last[0],
                width=(first[0], second[0], third[0]),
                binary=path.name.startswith("binary") if binary is None else binary,
            )
            load_weights(model, path)
        except (KeyError, ValueError, IndexError) as error:
            raise CorruptFileError(
                f"{path}: expected the weights of the authors' MNIST CNN (conv_0 .. conv_3, bn_0 .. bn_2), "
                f"got {len(tensors)} tensors that do not fit it ({error}); "
                "give one of the published *_cnn.net files"
            ) from error
        return model.eval()
