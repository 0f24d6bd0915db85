"""Small networks, from one linear layer to the convolutional net of Schott et al. and their weights."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import max_pool2d

from fastadv.errors import CorruptFileError, InputError
from fastadv.models._common import Shape, check_batch, check_sizes, draw_convolutions, first_weights
from fastadv.models.weights import load_weights, read_plain
from fastadv.models.wrappers import THRESHOLD, binarize

torch.fx.wrap("check_batch")


class SoftmaxRegression(nn.Module):
    """Logits W x + b over the flattened image."""

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, *, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        self.shape = tuple(shape)
        with first_weights(seed):
            self.linear = nn.Linear(math.prod(shape), classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(check_batch(x, self.shape).flatten(1))
        return logits


class LogisticRegression(nn.Module):
    """A binary linear classifier, P(y = 1 | x) = sigmoid(w x + b).

    The score s = w x + b is returned as the logits (-s/2, s/2): their softmax is (1 - sigmoid(s),
    sigmoid(s)), so cross-entropy is softplus(-s) for label 1 and softplus(s) for label 0, and the margin is
    `|s|`. So whatever attacks a model of K classes attacks it too.
    """

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 2, *, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape)
        if classes != 2:
            raise InputError(f"logistic regression tells 2 classes apart, got classes={classes}; use softmax")
        self.shape = tuple(shape)
        with first_weights(seed):
            self.linear = nn.Linear(math.prod(shape), 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.linear(check_batch(x, self.shape).flatten(1)) / 2
        return torch.cat([-half, half], dim=1)


class Features(nn.Module):
    """A network that sets `channels` of its images, its layers `features`, and on their mean `linear`."""

    if TYPE_CHECKING:  # TorchScript knows no module as a type
        channels: int
        features: nn.Module
        linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(check_batch(x, (self.channels, None, None)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits

    def draw_weights(self) -> None:
        """Draw convolutions by what enters them; the bias of `linear` begins at 0."""
        draw_convolutions(self, "fan_in")
        nn.init.zeros_(self.linear.bias)


def _layer(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


class SmallCNN(Features):
    """Three 3x3 convolutions with BatchNorm and ReLU, the mean over the image, one linear layer.

    Because of the mean, images may have another height and width than `shape`. `width` is that of the first
    convolution; the representation has 4 * width features.
    """

    def __init__(
        self, shape: Shape = (1, 8, 8), classes: int = 10, *, width: int = 32, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        self.channels = shape[0]
        with first_weights(seed):
            self.features = nn.Sequential(
                *_layer(shape[0], width, stride=1),
                *_layer(width, 2 * width, stride=2),
                *_layer(2 * width, 4 * width, stride=2 if min(shape[1:]) > 16 else 1),
            )
            self.linear = nn.Linear(4 * width, classes)


class WongCNN(nn.Module):
    """Two 4x4 convolutions of stride 2 and two linear layers, with ReLU between them (Wong and Kolter 2018).

    For MNIST it has 166,406 parameters. It is the usual small network for adversarial training on MNIST at
    L-infinity 0.3, because it has no BatchNorm, whose statistics differ between clean and adversarial images
    where the radius is large.
    """

    def __init__(
        self, shape: Shape = (1, 28, 28), classes: int = 10, *, width: int = 16, seed: int | None = 0
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        if min(shape[1:]) < 4:
            raise InputError(f"expected images of at least 4x4, got shape {tuple(shape)}; resize them")
        self.shape = tuple(shape)
        with first_weights(seed):
            self.conv_0 = nn.Conv2d(shape[0], width, 4, stride=2, padding=1)
            self.conv_1 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
            self.linear_0 = nn.Linear(2 * width * (shape[1] // 4) * (shape[2] // 4), 100)
            self.linear_1 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv_0(check_batch(x, self.shape)))
        x = torch.relu(self.conv_1(x)).flatten(1)
        logits: Tensor = self.linear_1(torch.relu(self.linear_0(x)))
        return logits


class LeNet(nn.Module):
    """Two 5x5 convolutions with ReLU and max pooling, and two linear layers, as papers on smoothing have it.

    For MNIST it has 431,080 parameters: 20 and 50 channels, then 500 units.
    """

    def __init__(self, shape: Shape = (1, 28, 28), classes: int = 10, *, seed: int | None = 0) -> None:
        super().__init__()
        check_sizes(classes, shape, 20)
        height, width = (((size - 4) // 2 - 4) // 2 for size in shape[1:])
        if min(height, width) < 1:
            raise InputError(f"expected images of at least 16x16, got shape {tuple(shape)}; use small_cnn")
        self.shape = tuple(shape)
        with first_weights(seed):
            self.conv_0 = nn.Conv2d(shape[0], 20, 5)
            self.conv_1 = nn.Conv2d(20, 50, 5)
            self.linear_0 = nn.Linear(50 * height * width, 500)
            self.linear_1 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(_pooled(self.conv_0(check_batch(x, self.shape))))
        x = torch.relu(_pooled(self.conv_1(x))).flatten(1)
        logits: Tensor = self.linear_1(torch.relu(self.linear_0(x)))
        return logits


def _pooled(x: Tensor) -> Tensor:
    """Return the maxima of 2x2 pixels; without a gradient, PyTorch's own takes 2 to 12 times as long."""
    if torch.is_grad_enabled():
        return max_pool2d(x, 2)
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    x = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(x[..., ::2], x[..., 1::2])


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
        tensors, _ = read_plain(path)
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
