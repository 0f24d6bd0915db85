"""Norms other than BatchNorm2d after a convolution: subclasses, functions, other dimensions and kinds."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..net import head, net, nets
from .norms import convolution


class Activated(nn.BatchNorm2d):
    """BatchNorm and activation in one module, as the libraries of image models have it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return self.act(self.drop(out))


nets(
    {},
    subclass_with_activation=lambda: nn.Sequential(
        convolution(), Activated(16), convolution(16), Activated(16), head()
    ),
)


@net()
def norm_after_transposed_convolution() -> nn.Module:
    up = nn.ConvTranspose2d(3, 12, 3, stride=2, padding=1, output_padding=1, groups=3)
    return nn.Sequential(
        up, nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3, stride=2), nn.ELU(), head(196)
    )


@net()
def other_norms() -> nn.Module:
    return nn.Sequential(
        convolution(), nn.GroupNorm(4, 16), nn.ReLU(), convolution(16),
        nn.InstanceNorm2d(16, affine=True), nn.SiLU(), convolution(16),
        nn.LocalResponseNorm(3), nn.Flatten(2), nn.LayerNorm(64), head(),
    )  # fmt: skip
