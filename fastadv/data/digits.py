"""The digits embedded in scikit-learn: 1,797 images of 8x8 (UCI, 1998). No download."""

from importlib import import_module
from typing import Any

import torch

from fastadv.data.imageset import ImageSet


def digits(split: str) -> ImageSet:
    """Return x float32 [N, 1, 8, 8] in sixteenths, and labels; every fifth of a class is for testing."""
    # imported here because it takes long, and by name because it has no type hints
    bunch: Any = import_module("sklearn.datasets").load_digits()
    x = torch.from_numpy(bunch.images).float().div_(16).unsqueeze_(1)
    y = torch.from_numpy(bunch.target).long()
    turn = (y[:, None] == torch.arange(10)).long().cumsum(0).gather(1, y[:, None])[:, 0]
    chosen = (turn % 5 == 0) == (split == "test")
    return ImageSet(x[chosen], y[chosen], 10, f"digits {split}")
