"""The data set a construction starts from, read by sample number, and where the search for each begins."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv import rng
from fastadv.data._batches import batches
from fastadv.data.folder import FolderSet
from fastadv.data.imageset import ImageSet
from fastadv.data.sampling import known_labels, sample_count
from fastadv.errors import InputError
from fastadv.runs.card import data_hash
from fastadv.runs.description import describe_data

STARTS = ("images", "noise")


class Base:
    """Samples of `dataset`, a map-style Dataset of (image, label), on `device`. InputError if it is empty."""

    def __init__(self, dataset: Dataset[Any], device: torch.device) -> None:
        self.count = sample_count(dataset, name="base")
        self.dataset, self.device = dataset, device
        self.name = str(getattr(dataset, "name", type(dataset).__name__))
        self.eight_bit = isinstance(dataset, FolderSet) or (
            isinstance(dataset, ImageSet) and dataset.dtype == torch.uint8
        )

    def fetch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples `ids` [B], on the device: (x float32 [B, C, H, W] in [0, 1], y int64 [B]).

        InputError for pixels outside [0, 1].
        """
        x, y, _ = next(batches(self.dataset, len(ids), order=ids, workers=0))
        return x.to(self.device), y.to(self.device)

    def start(self, kind: str | None, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Return where the search for the samples `ids` [B] with images `x` begins; None: at x itself.

        "images": at another image, uniform over all others. "noise": Gaussian, of deviation 1/20 around 1/2.
        """
        if kind is None:
            return x
        if kind == "images":
            others = rng.integers(self.count - 1, rng.derive(seed, "construct partners"), ids)
            return self.fetch((ids + 1 + others) % self.count)[0]
        normal = rng.normal(x[0].numel(), rng.derive(seed, "construct noise"), ids)
        return (0.5 + normal.to(x.device).reshape(x.shape) / 20).clamp(0, 1)

    def spread(self, most: int) -> Tensor:
        """Return the numbers of at most `most` samples, evenly spaced from the first to the last."""
        return torch.linspace(0, self.count - 1, min(most, self.count)).long()

    def class_names(self, outputs: int) -> tuple[str, ...]:
        """Return the names of the classes; their numbers where the data set has no names."""
        return tuple(map(str, getattr(self.dataset, "classes", range(outputs))))

    def check_labels(self, outputs: int, *, every_class: bool) -> None:
        """Raise InputError where names or labels do not fit a model with `outputs` classes.

        every_class: an error too where a class has no image.
        """
        names = self.class_names(outputs)
        if len(names) != outputs:
            raise InputError(
                f"model: expected logits for the {len(names)} classes of the base, got {outputs}"
            )
        labels = known_labels(self.dataset)
        if labels is None:
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs:
            raise InputError(
                f"base: expected labels from 0 to {outputs - 1}, as the model has {outputs} classes, "
                f"got {low} to {high}"
            )
        empty = (labels.bincount(minlength=outputs) == 0).nonzero().flatten().tolist()
        if every_class and empty:
            raise InputError(
                f"base: expected images of all {outputs} classes, got none of class {empty}; "
                "the constructed set would lack a label"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data set from another: its description, or its length and hashes."""
        if isinstance(self.dataset, ImageSet | FolderSet):
            return self.dataset.describe()
        some = data_hash(*self.fetch(self.spread(16)))
        held = describe_data(self.dataset)
        return {"name": self.name, "samples": self.count, "data_hash": some, "held": held}
