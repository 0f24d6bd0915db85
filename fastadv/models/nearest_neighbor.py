"""The nearest neighbor of each class among the training images, a baseline of Schott et al. 2018."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models._common import check_batch
from fastadv.models.abs._images import read_images
from fastadv.ops.nearest_prototype import nearest_prototype


class NearestNeighbor(nn.Module):
    """Classifies an image as its nearest training image in L2.

    Called with x [B, ...], it returns logits [B, K]. Logit k is minus the L2 distance to the nearest training
    image of class k; its gradient points to that image.

    Args:
        x: [N, ...], the training images; they are kept as float32.
        y: int64 [N], their labels, with every class from 0 to K - 1.

    Raises:
        InputError: images or labels have another shape or dtype, or a class has no image.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        if (
            x.ndim < 2
            or len(x) != len(y)
            or not x.is_floating_point()
            or y.dtype != torch.int64
            or not len(x)
        ):
            raise InputError(
                f"expected floating images [N, ...] and int64 labels [N], "
                f"got {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
            )
        counts = y.bincount() if int(y.min()) >= 0 else torch.zeros(1)
        if len(counts) < 2 or not bool(counts.all()):
            raise InputError(
                f"y: expected images of every class from 0 to K - 1, K >= 2, "
                f"got {counts.long().tolist()} of each"
            )
        self.shape = tuple(x.shape[1:])
        self.counts = [int(count) for count in counts]
        self.images: Tensor
        self.register_buffer("images", x[y.argsort(stable=True)].flatten(1).float().contiguous())

    @classmethod
    def fit(cls, dataset: Any) -> Self:
        """Return the classifier of a data set.

        Args:
            dataset: has tensors x [N, C, H, W] and y, or (image, label) pairs.

        Returns:
            The classifier.
        """
        images = read_images(dataset)
        return cls(images.take(torch.arange(len(images))), images.y.to(images.x.device)).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K]."""
        rows = check_batch(x, self.shape).flatten(1).to(self.images.dtype)
        nearest = []
        for own in self.images.split(self.counts):  # type: ignore[no-untyped-call]
            with torch.no_grad():
                _, index = nearest_prototype(rows.detach(), own, own.new_zeros(len(own)))
            nearest.append(own[index])
        logits: Tensor = -(rows[:, None] - torch.stack(nearest, 1)).norm(dim=2)
        return logits
