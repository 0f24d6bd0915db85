"""What a run is fed: the batches of an epoch, augmented, on the model's device; and whether it takes them."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._waiting import waits
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.data import ImageSet, Mixture
from fastadv.data._batches import Batch, Reader
from fastadv.data.given import ANY, CLASSES
from fastadv.data.imageset import UNIT, Boxes, Held, check_images, to_unit
from fastadv.data.sampling import known_labels
from fastadv.errors import InputError
from fastadv.measure.reading import labels_of
from fastadv.runs import processes
from fastadv.train._share import Share
from fastadv.train.augment import Augmentation
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.base import is_missing

logger = logging.getLogger("fastadv")
RESIDENT = 4 << 30  # bytes; the batches of larger sets in memory are moved one by one
CHECK_EVERY = 64  # steps between two checks on a GPU: each check waits for the device


@dataclass
class Feed:
    """The batches of every epoch, of several processes a share: a function of (seed, epoch)."""

    dataset: Dataset[Any]
    batch_size: int
    augment: Augmentation | None
    seed: int
    device: torch.device
    workers: int | None = None
    dtype: torch.dtype | None = None  # of the images, that of the model's weights; float32 unless given
    drop_last: bool = False
    box: Boxes = UNIT
    labels: str = CLASSES  # what they may be
    within: Boxes = field(default_factory=dict)  # where the recipe wants images, augmented, too

    def __post_init__(self) -> None:
        self.rank, self.world = processes.rank(), processes.world()
        if self.batch_size < self.world:
            raise InputError(
                f"batch_size: expected at least one image for each of {self.world} processes, "
                f"got {self.batch_size}; start fewer"
            )
        if self.drop_last and self._all < self.batch_size:
            raise InputError(
                f"drop_last: expected at least the {self.batch_size} images of a step, got a training set of "
                f"{self._all}, of which nothing would be left; leave it out"
            )
        if self.workers is not None and isinstance(self.dataset, Held):
            raise InputError(f"workers: expected None for images in memory, got {self.workers}; leave it out")

    @property
    def _all(self) -> int:
        data: Any = self.dataset
        return data.epoch_size if isinstance(data, Mixture) else len(data)

    @property
    def epoch_size(self) -> int:
        return self._all - (self._all % self.batch_size if self.drop_last else 0)

    @property
    def steps(self) -> int:
        return math.ceil(self.epoch_size / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return the numbers of the samples of an epoch, in their order."""
        if isinstance(self.dataset, Mixture):
            order = self.dataset.epoch_order(rng.derive(self.seed, "order"), epoch)
        else:
            order = rng.permutation(self._all, rng.derive(self.seed, "order", epoch))
        return order[: self.epoch_size]

    def share(self, step: int) -> Share:
        """Return this process's share of a batch, counted from 0."""
        size = min(self.batch_size, self.epoch_size - step * self.batch_size)
        return Share(size, self.rank, self.world)

    def batches(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Yield (x, y, ids) of each batch after the first `done`; x and ids on the device, x in the box.

        An augmentation sets the generators of torch, NumPy and Python, which the caller keeps.
        """
        parts = torch.split(self.order(epoch)[done * self.batch_size :], self.batch_size)
        order = torch.cat([self.share(step).part(rows) for step, rows in enumerate(parts, done)])
        read = self._reader.batches(order, rng.derive(self.seed, "samples", epoch))
        for step, (x, y, ids) in enumerate(read, done):
            x, ids = to_unit(x.to(self.device, non_blocking=True)), ids.to(self.device, non_blocking=True)
            if self.augment is not None:
                # The step decides what users' functions draw
                seed = rng.derive(self.seed, "torch augment", epoch, step, *self.share(step).key)
                rng.seed_all(seed, self.device)
                x = self.augment(x, ids=ids, seed=self.seed, epoch=epoch)
                if self.within and (not waits(self.device) or step % CHECK_EVERY == 0):
                    check_images(x.float(), "augment", self.within)
            yield x.to(self.dtype or x.dtype), y, ids

    def first(self, count: int) -> Batch:
        """Return the first images of the set, at most `count`, their labels and numbers, on the device."""
        x, y, ids = first_rows(self.dataset, count, self.box, self.labels)
        return x.to(self.device), y.to(self.device), ids.to(self.device)

    @cached_property
    def _reader(self) -> Reader:
        data, pinned = self.dataset, self.device.type == "cuda"
        # Files that are mapped stay files on a CPU
        held = isinstance(data, ImageSet) or waits(self.device)
        if isinstance(data, Held) and held and data.nbytes <= RESIDENT:
            data = data.to(self.device)
        # the last batch has no more images for this process than a full one
        most = Share(self.batch_size, self.rank, self.world).count
        return Reader(data, most, self.workers, kept=True, pinned=pinned, box=self.box, labels=self.labels)

    def close(self) -> None:
        """End what reads ahead; it begins again where more is asked for."""
        self._reader.close()


def check_classes(y: Tensor, classes: int, name: str = "train_set") -> None:
    if waits(y.device):  # they belong to an ImageSet, and were checked
        return
    if y.min() < 0 or y.max() >= classes:
        raise InputError(
            f"{name}: expected labels from 0 to {classes - 1}, as the model has {classes} classes, "
            f"got {int(y.min())} to {int(y.max())}; give the model more classes or map the labels"
        )


def first_rows(dataset: Dataset[Any], count: int, box: Boxes, labels: str = CLASSES) -> Batch:
    """Return the first images of a set, in the box, their labels and numbers: at most `count`."""
    x, y, ids = next(Reader(dataset, count, box=box, labels=labels).batches())
    return to_unit(x), y, ids


def check_sets(
    model: nn.Module, sets: Mapping[str, Dataset[Any] | None], augment: Augmentation | None,
    device: torch.device, box: Boxes, tested: Criterion = WRONG, trained: Criterion = WRONG, size: int = 1,
) -> int:  # fmt: skip
    """Check `size` images to train on, the first of other sets, and labels; return the number of classes."""
    classes, labels = 0, dict[str, Tensor | None]()
    for name, dataset in ((name, dataset) for name, dataset in sets.items() if dataset is not None):
        criterion, count = (trained, size) if name == "train_set" else (tested, 1)
        kind = labels_of(criterion)
        x, y, ids = (tensor.to(device) for tensor in first_rows(dataset, count, box, kind))
        if augment is not None and name == "train_set":
            moved: object = augment(x, ids=ids, seed=0, epoch=1)
            got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
            if got != tuple(x.shape):
                raise InputError(f"augment: expected images of shape {tuple(x.shape)}, as given, got {got}")
        try:
            prepared = follower(model, criterion.outputs)
            logits = prepared(x)
            classes = logits.shape[1]
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{name}: expected images that the model takes, got {list(x.shape[1:])} ({reason})"
            ) from error
        if kind == ANY:
            known = criterion.labels(name, None if is_missing(y) else y, len(x), device)
            fitting(criterion, logits, prepared.output_shape, known, None)
            continue
        labels[name] = known_labels(dataset)
        if (known := labels[name]) is not None:
            check_classes(known, classes, name)
    seen, held_out = labels.get("train_set"), labels.get("validation_set")
    if seen is None or held_out is None:
        return classes
    missing = sorted(set(seen.tolist()) - set(held_out.tolist()))
    if missing:
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        logger.warning(
            "validation_set: no image of class %s: the best epoch is chosen without them; "
            "hold out more images", shown
        )  # fmt: skip
    return classes
