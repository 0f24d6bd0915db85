"""Any set of labeled images as two tensors, checked for training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs.card import data_hash


@dataclass(frozen=True, eq=False)
class Images:
    """x [N, C, H, W], uint8 or float32 in [0, 1]; y int64 [N] on the CPU; what a card says of them."""

    x: Tensor
    y: Tensor
    classes: int
    description: Any

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Tensor:
        """Return the images at `index` as float32 in [0, 1]."""
        x = self.x[index.to(self.x.device)]
        return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def read_images(dataset: Any, shape: tuple[int, int, int] | None = None) -> Images:
    """Return the images of a set with tensors `x` and `y`, or of any sequence of pairs (image, label).

    InputError for an empty set, images of another shape than `shape` (C, H, W), outside [0, 1] or not finite,
    labels that do not fit, and classes without an image.
    """
    x, y = getattr(dataset, "x", None), getattr(dataset, "y", None)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        pairs = [dataset[i] for i in range(len(dataset))]
        if not pairs:
            raise InputError("dataset: expected at least one image, got an empty set")
        parts = [torch.as_tensor(image) for image, _ in pairs]
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            raise InputError(f"dataset: expected images of one shape, got {sorted(shapes)}; resize them")
        x = torch.stack(parts)
        y = torch.tensor([int(label) for _, label in pairs])
    if len(x) == 0 or (shape is not None and tuple(x.shape[1:]) != shape):
        raise InputError(
            f"dataset: expected images {shape}, as the decoders give, got {len(x)} of {tuple(x.shape[1:])}; "
            "give their DecoderShape"
        )
    if y.shape != (len(x),) or y.is_floating_point():
        raise InputError(
            f"dataset: expected integer labels, one for each of {len(x)} images, "
            f"got {y.dtype} {tuple(y.shape)}"
        )
    if x.dtype != torch.uint8:
        low, high = (float(value) for value in x.aminmax())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise InputError(f"dataset: expected pixels in [0, 1], got {low:.4g} to {high:.4g}; rescale them")
    y = y.to("cpu", torch.int64)
    classes = int(getattr(dataset, "num_classes", int(y.max()) + 1))
    if int(y.min()) < 0 or int(y.max()) >= classes or classes < 2:
        raise InputError(
            f"dataset: expected labels from 0 to K - 1 of K >= 2 classes, "
            f"got {int(y.min())} to {int(y.max())} for K = {classes}"
        )
    counts = y.bincount(minlength=classes)
    if not bool(counts.all()):
        empty = (counts == 0).nonzero().flatten().tolist()
        raise InputError(
            f"dataset: expected images of every class, got none of {empty}; add some or drop the class"
        )
    told = getattr(dataset, "describe", None)
    return Images(
        x, y, classes, told() if callable(told) else {"samples": len(y), "data_hash": data_hash(x, y)}
    )
