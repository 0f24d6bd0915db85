"""Networks of the GPU benchmark, which need no package besides torch, at random weights.

The ResNets are those of He et al. 2016 with torchvision's layer names; `small` is the usual stem for 32x32
images, a 3x3 convolution of stride 1 without max-pool.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import fastadv as fa


class Block(nn.Module):
    """Two 3x3 convolutions, or one between two of 1x1 that ends in four times the width, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        sizes, inner, outer = (3, 3) if expansion == 1 else (1, 3, 1), channels, width * expansion
        self.last = len(sizes)
        for number, size in enumerate(sizes, 1):
            step, out = stride if number == self.last - 1 else 1, outer if number == self.last else width
            setattr(self, f"conv{number}", nn.Conv2d(inner, out, size, step, size // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(out))
            inner = out
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != outer:
            convolution = nn.Conv2d(channels, outer, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.last + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            out = self.relu(out if number < self.last else out + self.downsample(x))
        return out


class ResNet(nn.Module):
    """x [B, 3, H, W] to logits [B, K]."""

    def __init__(
        self, expansion: int, depths: tuple[int, ...], classes: int, *, small: bool, width: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        channels = width
        for number, depth in enumerate(depths):
            layers = []
            for place in range(depth):
                stride = 2 if number and not place else 1
                layers.append(Block(channels, width << number, stride, expansion))
                channels = (width << number) * expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _made(net: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """`net` at weights of its own stream, its BatchNorm statistics those of random images."""
    draw = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * (2 / fan) ** 0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(8, *shape, generator=draw))
    for layer in norms:
        layer.momentum = 0.1
    return net.eval()


def resnet18(*, tiny: bool = False) -> nn.Module:
    """For 32x32 images; tiny: one block a stage, whose layout `_layout.allows_channels_last` still allows."""
    depths, width = ((1, 1, 1, 1), 16) if tiny else ((2, 2, 2, 2), 64)
    return _made(ResNet(1, depths, 10, small=True, width=width), (3, 32, 32))


def resnet50(*, tiny: bool = False, side: int = 224) -> nn.Module:
    depths, width = ((1, 1, 1, 1), 4) if tiny else ((3, 4, 6, 3), 64)
    return _made(ResNet(4, depths, 1000, small=False, width=width), (3, side, side))


def wrn(*, tiny: bool = False) -> nn.Module:
    """The WideResNet of the leaderboards, for 32x32 images."""
    depth, widen = (10, 1) if tiny else (28, 10)
    return _made(
        fa.models.create("wide_resnet", shape=(3, 32, 32), depth=depth, widen_factor=widen), (3, 32, 32)
    )


class Attention(nn.Module):
    """A block of a vision transformer: attention of heads of 64, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = width // 64

    def forward(self, x: Tensor) -> Tensor:
        parts = self.inward(self.norm1(x)).unflatten(2, (3, self.heads, 64)).permute(2, 0, 3, 1, 4)
        x = x + self.outward(scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.layers(self.norm2(x))


class ViT(nn.Module):
    """ViT-B/16: x [B, 3, 224, 224] to logits [B, 1000]."""

    def __init__(self, side: int = 224, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, (side // 16) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Attention(width) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), patches], 1) + self.places
        logits: Tensor = self.head(self.blocks(tokens)[:, 0])
        return logits


def vit(*, tiny: bool = False) -> nn.Module:
    torch.manual_seed(0)
    side, width, depth = (32, 64, 1) if tiny else (224, 768, 12)
    return _made(ViT(side, width, depth), (3, side, side))


def mlp() -> nn.Module:
    return _made(nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (1, 28, 28))


def cnn() -> nn.Module:
    return _made(fa.models.create("cnn"), (1, 28, 28))


def small_net(width: int = 8) -> nn.Module:
    """A net of a few thousand parameters, with that width, for 3x32x32 images."""
    return _made(fa.models.create("small_cnn", shape=(3, 32, 32), width=width), (3, 32, 32))
