"""VGG networks for small images."""

from torch import nn

from fastadv.errors import InputError
from fastadv.models._common import check_sizes, draw_convolutions, first_weights
from fastadv.models._features import Features

# 3x3 convolutions of each of the five stages; a stage has 1, 2, 4, 8 and 8 times the width
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDER = (1, 2, 4, 8, 8)


class VGG(Features):
    """VGG with BatchNorm and one linear layer, as is usual for CIFAR-10.

    Called with x [B, C, H, W] in [0, 1], it returns logits [B, K]. Plain 3x3 convolutions in five stages,
    each of which ends in a max-pool. With the width 64, three channels and ten classes, VGG-16 has 14,728,266
    parameters. It takes the mean over the image, so images may have another height and width than `shape`; of
    small ones a pool leaves at least one pixel.

    Args:
        shape: (C, H, W) of one image.
        classes: the number of classes K.
        depth: 11, 13, 16 or 19 layers with weights in the original, which ends in three linear layers.
        width: channels of the first stage.
        seed: of the first weights; None draws them from torch's generator.

    Raises:
        InputError: x has another rank or number of channels.

    Source:
        Simonyan and Zisserman 2015 (arXiv 1409.1556).
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        depth: int = 16,
        width: int = 64,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_sizes(classes, shape, width)
        if depth not in DEPTHS:
            raise InputError(f"depth: expected one of {', '.join(map(str, DEPTHS))}, got {depth!r}")
        self.channels = shape[0]
        with first_weights(seed):
            layers: list[nn.Module] = []
            before = shape[0]
            for count, times in zip(DEPTHS[depth], WIDER, strict=True):
                for _ in range(count):
                    after = times * width
                    layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                    before = after
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            self.features = nn.Sequential(*layers)
            draw_convolutions(self.features)
            for name, bias in self.features.named_parameters():
                if name.endswith("bias"):  # those of BatchNorm are 0 from the start
                    nn.init.zeros_(bias)
            self.linear = nn.Linear(before, classes)
