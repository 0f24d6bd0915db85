"""Images mixed with others of their batch, and their labels with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_number
from fastadv.data._labels import probabilities_of
from fastadv.errors import InputError


@dataclass(frozen=True)
class Mixing:
    """Mix each image with another one of its batch, and their labels by the same shares.

    The partners are drawn once for each batch. What an image takes of its partner depends on the seed and its
    sample number, so that no result depends on the processes that share the batch. Labels become
    probabilities [B, K].

    Args:
        most: the largest share of the partner, in (0, 1]; shares are drawn uniformly from [0, most].
    """

    most: float = 1.0

    def __post_init__(self) -> None:
        if check_number("most", self.most, 0, 1) == 0:
            raise InputError("most: expected a share in (0, 1], got 0; leave the augmentation out")

    def __call__(self, x: Tensor, other: Tensor, *, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed images, and the share [B] of the partner in each."""
        raise NotImplementedError

    def mixed(
        self, x: Tensor, y: Tensor, others: tuple[Tensor, Tensor], classes: int, *, ids: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return images mixed with those of their partners, and probabilities float32 [B, K]."""
        other, label = others
        x, share = self(x, other, ids=ids, seed=seed)
        share = share[:, None].to(torch.float32)
        own, foreign = (probabilities_of(each.to(x.device), classes) for each in (y, label))
        return x, (1 - share) * own + share * foreign


@dataclass(frozen=True)
class CutMix(Mixing):
    """Paste a window of another image; the share of the other label is the window's share of the area.

    A share of the area is drawn uniformly from [0, most], and the window has the shape of the image. Its
    center lies anywhere in the image; what lies outside is lost.

    Args:
        most: the largest share of the partner, in (0, 1].

    Source:
        Yun et al. 2019, "CutMix" (arXiv 1905.04899); Rebuffi et al. 2021, "Fixing Data Augmentation to
        Improve Adversarial Robustness" (arXiv 2103.01946).
    """

    def __call__(self, x: Tensor, other: Tensor, *, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        height, width = x.shape[2:]
        draws = rng.uniform(3, seed, ids.to(x.device)).double()
        side, inside = (self.most * draws[:, 0]).sqrt(), []
        area = torch.ones_like(side)
        for k, length in enumerate((height, width), 1):
            half = (side * length).floor().long() // 2
            center = (draws[:, k] * length).long().clamp(max=length - 1)
            first, end = (center - half).clamp(min=0), (center + half).clamp(max=length)
            places = torch.arange(length, device=x.device)
            inside.append((places >= first[:, None]) & (places < end[:, None]))
            area = area * (end - first).double() / length
        window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(window, other, x), area


@dataclass(frozen=True)
class MixUp(Mixing):
    """Average each image with another one, by a share drawn uniformly from [0, most].

    Args:
        most: the largest share of the partner, in (0, 1].

    Source:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), with alpha = 1.
    """

    def __call__(self, x: Tensor, other: Tensor, *, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        share = self.most * rng.uniform(1, seed, ids.to(x.device))[:, 0]
        weight = share[:, None, None, None].to(x)
        return x + weight * (other - x), share


def partners(order: Tensor, seed: int, size: int, done: int = 0) -> Tensor:
    """Return whom each sample of `order` is mixed with: one of its batch of `size`, counted from `done`."""
    batches = enumerate(torch.split(order, size), done)
    return torch.cat([batch[rng.permutation(len(batch), seed, step)] for step, batch in batches])
