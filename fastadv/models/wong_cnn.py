"""The small strided network that Wong and Kolter train on MNIST; fast to attack, and without BatchNorm."""

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import Shape, check_batch, check_sizes, first_weights

torch.fx.wrap("check_batch")


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
