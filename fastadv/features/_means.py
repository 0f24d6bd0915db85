"""Means and deviations of each class, taken batch by batch."""

import torch
from torch import Tensor


class ClassMeans:
    """The mean, and the sum of squared deviations from it, of values [n, F] for each of K classes; float64.

    Batches are merged as in Chan, Golub & LeVeque 1983: no large sums are subtracted, so that however the
    data are split the result is the same to rounding.
    """

    def __init__(self, classes: int, features: int, device: torch.device) -> None:
        options = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros(classes, 1, **options)  # type: ignore[call-overload]
        self.mean = torch.zeros(classes, features, **options)  # type: ignore[call-overload]
        self.squares = torch.zeros_like(self.mean)

    def add(self, values: Tensor, y: Tensor) -> None:
        """Take in a batch: values float64 [n, F] of samples with labels y [n]."""
        member = torch.nn.functional.one_hot(y, len(self.count)).to(values).T
        count = member.sum(1, keepdim=True)
        mean = member @ values / count.clamp_min(1)
        away = mean - self.mean
        share = count / (self.count + count).clamp_min(1)
        self.squares += member @ (values - mean[y]).square() + away.square() * self.count * share
        self.mean += away * share
        self.count += count

    @property
    def share(self) -> Tensor:
        """[K, 1] the share of each class in all samples."""
        share: Tensor = self.count / self.count.sum()
        return share

    def overall(self) -> tuple[Tensor, Tensor]:
        """Return (mean [F], standard deviation [F]) over all samples, the deviation with 1 / n."""
        mean = (self.share * self.mean).sum(0)
        between = (self.share * (self.mean - mean).square()).sum(0)
        return mean, (self.squares.sum(0) / self.count.sum() + between).sqrt()
