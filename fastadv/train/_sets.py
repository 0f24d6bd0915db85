"""Checks of the images and labels that a model is trained and tested on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.data import batches
from fastadv.errors import InputError
from fastadv.train.augment import Augmentation
from fastadv.train.recipes._common import frozen_twin


def check_classes(y: Tensor, classes: int, name: str = "train_set") -> None:
    """Raise InputError unless the labels `y` of the data set `name` are classes of the model."""
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"{name}: expected labels from 0 to {classes - 1}, as the model has {classes} classes, "
            f"got {int(y.min())} to {int(y.max())}; give the model more classes or map the labels"
        )


def check_sets(
    model: nn.Module,
    sets: Mapping[str, Dataset[Any] | None],
    augment: Augmentation | None,
    device: torch.device,
) -> int:
    """Check the first image of each set, and labels in memory. Returns the number of the model's classes."""
    classes = 0
    for name, dataset in sets.items():
        if dataset is None:
            continue
        x, _, ids = (tensor.to(device) for tensor in next(batches(dataset, 1)))
        if augment is not None and name == "train_set":
            moved = augment(x, ids=ids, seed=0, epoch=1)
            if not isinstance(moved, Tensor) or moved.shape != x.shape:
                got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
                raise InputError(f"augment: expected images of shape {tuple(x.shape)}, as given, got {got}")
        try:
            classes = frozen_twin(model)(x).shape[1]
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{name}: expected images that the model takes, got {list(x.shape[1:])} ({reason})"
            ) from error
        labels = getattr(dataset, "labels", None)
        if isinstance(labels, Tensor):
            check_classes(labels, classes, name)
    return classes
