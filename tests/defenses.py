"""Defenses that hide, shatter or randomize gradients; the tables name them by where they belong."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


class MeanSparse(nn.Module):
    """Return the channel mean where an activation is within width * deviation of it, as of statistics.

    Its gradient there is zero: of the mean, which is a constant. Source: Amini et al. 2024, MeanSparse.
    """

    def __init__(self, mean: Tensor | float = 0.0, std: Tensor | float = 1.0, width: float = 0.2) -> None:
        super().__init__()
        self.mean, self.reach = torch.as_tensor(mean), width * torch.as_tensor(std)

    def forward(self, h: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (h.ndim - 2))
        mean, reach = (each.to(h).reshape(shape) for each in (self.mean, self.reach))
        return torch.where((h - mean).abs() <= reach, mean, h)

    @classmethod
    def of(cls, h: Tensor, width: float = 0.2) -> "MeanSparse":
        """Return the layer with the statistics of activations h [B, C, ...]."""
        axes = [0, *range(2, h.ndim)]
        return cls(h.detach().mean(axes), h.detach().std(axes), width)


class Quantize(nn.Module):
    """Round to the nearest of `levels` values a unit; the gradient of round is zero everywhere."""

    def __init__(self, levels: int = 32) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, h: Tensor) -> Tensor:
        return (h * self.levels).round() / self.levels


class JPEG(nn.Module):
    """Round the cosine transform of blocks of 8 x 8, in NumPy: no graph leads through it."""

    def __init__(self, step: float = 0.1) -> None:
        super().__init__()
        rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
        basis = np.cos(np.pi * (2 * columns + 1) * rows / 16) / 2
        basis[0] /= np.sqrt(2)
        self.basis, self.step = basis, step

    def forward(self, x: Tensor) -> Tensor:
        images = x.detach().cpu().double().numpy()
        batch, channels, height, width = images.shape
        blocks = images.reshape(batch, channels, height // 8, 8, width // 8, 8).swapaxes(3, 4)
        coded = (self.basis @ blocks @ self.basis.T / self.step).round() * self.step
        decoded = (self.basis.T @ coded @ self.basis).swapaxes(3, 4).reshape(images.shape)
        return torch.from_numpy(decoded).to(x).clamp(0, 1)


class KWinners(nn.Module):
    """Keep the largest share of a sample's activations, zero the others. Source: Xiao et al. 2020."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        flat = h.flatten(1)
        least = flat.topk(max(1, round(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(h)


class RandomCrop(nn.Module):
    """Pad by one pixel and crop at a random place, in every pass; the generator is torch's."""

    def forward(self, x: Tensor) -> Tensor:
        top, left = (int(torch.randint(3, ())) for _ in range(2))
        return nn.functional.pad(x, (1, 1, 1, 1))[..., top : top + x.shape[-2], left : left + x.shape[-1]]


class AlwaysDropout(nn.Module):
    """Drop activations in eval mode, too."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.p = p

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.dropout(h, self.p, training=True)


class Temperature(nn.Module):
    """Multiply logits, so that the softmax saturates and its gradient underflows."""

    def __init__(self, factor: float = 1e4) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.factor


class Detach(nn.Module):
    """Cut the graph and change nothing."""

    def forward(self, h: Tensor) -> Tensor:
        return h.detach()


class PartlyDetached(nn.Module):
    """Cut the graph for the first share of an axis, and change nothing."""

    def __init__(self, share: float = 0.5, axis: int = -1) -> None:
        super().__init__()
        self.share, self.axis = share, axis

    def forward(self, h: Tensor) -> Tensor:
        size = h.shape[self.axis]
        cut = round(self.share * size)
        first, rest = h.split([cut, size - cut], self.axis)
        return torch.cat([first.detach(), rest], self.axis)


class NoGrad(nn.Module):
    """Scale under no_grad, as code copied from an evaluation loop."""

    @torch.no_grad()
    def forward(self, h: Tensor) -> Tensor:
        return 1.25 * h - 0.125


class FixedPoint(nn.Module):
    """Solve h = (x + tanh(h)) / 2 by iteration under no_grad, as some implicit layers and ODE solvers do."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        for _ in range(30):
            h = (x + h.tanh()) / 2
        return 2 * h - h.tanh()  # x again, up to rounding


class RootAtZero(nn.Module):
    """Return h, with a square root whose derivative at 0 is infinite: 0 * inf is NaN in its gradient."""

    def forward(self, h: Tensor) -> Tensor:
        return h + 0 * (h - h.detach()).square().sqrt()


class Softmax(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class Binarize(nn.Module):
    """Return 1 above the threshold and else 0; the comparison cuts the graph."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, h: Tensor) -> Tensor:
        return (h > self.threshold).to(h.dtype)


class Buckets(nn.Module):
    """Return the thermometer code of values in [0, 1], a channel a level. Source: Buckman et al. 2018."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.arange(self.levels, dtype=x.dtype, device=x.device) / self.levels
        return (x.unsqueeze(2) > edges.view(-1, 1, 1)).to(x.dtype).flatten(1, 2)


class Pointwise(nn.Module):
    """A function of each value, as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Defended(nn.Module):
    """Put a layer before a net's images (`before`), or after its logits (`after`)."""

    def __init__(self, net: nn.Module, *, before: nn.Module | None = None, after: nn.Module | None = None):
        super().__init__()
        self.before, self.net, self.after = before or nn.Identity(), net, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


# layers of images [B, 1, 8 n, 8 n] in [0, 1] whose gradient is zero, NaN or absent
AT_INPUT: dict[str, Callable[[], nn.Module]] = {
    "quantize": Quantize,
    "jpeg": JPEG,
    "bytes": lambda: Pointwise(lambda x: (255 * x.detach()).round().to(torch.uint8).to(x) / 255),
    "detach": Detach,
    "no_grad": NoGrad,
    "fixed_point": FixedPoint,
    "nan": RootAtZero,
    "binarize": Binarize,
}
AT_RANDOM: dict[str, Callable[[], nn.Module]] = {"random_crop": RandomCrop, "dropout": AlwaysDropout}
