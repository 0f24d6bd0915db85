"""A model that normalizes inside itself, so that attacks always work in the box of the images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastadv.engine import log_confidence
from fastadv.errors import InputError
from fastadv.models._common import check_batch

torch.fx.wrap("check_batch")

# Mean and standard deviation of the training pixels in [0, 1], for red, green and blue. CIFAR: as in the code
# of Gowal et al. 2020 and Wang et al. 2023. The deviation (0.2023, 0.1994, 0.2010) of other code is the mean
# over single images; weights that were trained with it need it. ImageNet: torchvision's presets.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalized(nn.Module):
    """A model of normalized images that takes plain ones: model((x - mean) / std), channel by channel.

    Called with x [B, C, H, W] in the box, it returns logits [B, K].

    Args:
        model: of normalized images.
        mean: a number, or one for each channel, in the units of x: `*STATISTICS["cifar10"]` gives mean and
            std for images in [0, 1].
        std: a number > 0, or one for each channel, in the units of x.

    Raises:
        InputError: std <= 0, values are not finite, or lengths differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        mean, std = ([value] if isinstance(value, (int, float)) else list(value) for value in (mean, std))
        if len(mean) != len(std) or not mean:
            raise InputError(f"expected as many means as standard deviations, got {len(mean)} and {len(std)}")
        values = torch.tensor([mean, std], dtype=torch.float64, device="cpu")
        if not values.isfinite().all() or not (values[1] > 0).all():
            raise InputError(f"expected finite means and std > 0, got mean {mean} and std {std}")
        self.model = model
        self.channels = len(mean) if len(mean) > 1 else None
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((check_batch(x, (self.channels, None, None)) - self.mean) / self.std)
        return logits

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the log probabilities as the model inside means its logits."""
        return log_confidence(self.model, logits)
