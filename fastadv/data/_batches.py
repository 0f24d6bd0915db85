"""A data set in batches, with the number of every sample."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from fastadv import rng
from fastadv.data.corruption.sets import Corrupted
from fastadv.data.folder import HOW_TO_RESIZE, FolderSet
from fastadv.data.given import ANY, CLASSES
from fastadv.data.imageset import UNIT, Boxes, Held, check_images, check_positions, to_unit
from fastadv.data.sampling import sample_count
from fastadv.errors import CorruptFileError, InputError
from fastadv.labels import instead

Batch = tuple[Tensor, Tensor, Tensor]

# Fewer images than this are read before worker processes have started.
_WORTH_WORKERS = 256


def batches(
    dataset: Dataset[Any], batch_size: int, order: Tensor | Sequence[int] | None = None, *,
    workers: int | None = None, seed: int = 0, box: Boxes = UNIT, labels: str = CLASSES,
) -> Iterator[Batch]:  # fmt: skip
    """Iterate over a data set in batches; the last one may be smaller.

    Args:
        dataset: an ImageSet, NpzSet or Mixture (served from memory, on its device), or any map-style data set
            of (image, label) pairs whose images are uint8 or float32 tensors.
        batch_size: samples of a batch.
        order: the positions to serve, in that order; None serves all. ids are positions in `dataset`.
        workers: processes that read ahead; None is up to 8 for images on disk, and none otherwise.
        seed: keys, with the sample's number, what the data set itself draws from torch, NumPy or `random`.
        box: (low, high), in which values of float32 must lie, or several of them by name.
        labels: "classes", one integer an image; "any" serves tensors [B, ...] as the set has them, and of
            images without labels [B, 0].

    Returns:
        An iterator of (x float32 [B, ...] in the box, y int64 [B], ids int64 [B]).

    Raises:
        InputError: the set is empty, positions are out of range, images differ in shape, or pixels are
            outside the box or not finite.
        CorruptFileError: an image file is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=20)
        >>> [len(ids) for x, y, ids in fa.data.batches(digits, 8)]
        [8, 8, 4]
    """
    raw = Reader(dataset, batch_size, workers, box=box, labels=labels).batches(order, seed)
    return ((to_unit(x), y, ids) for x, y, ids in raw)


class Reader:
    """Reads a data set in batches, any number of times; `kept`: processes live on between readings."""

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, workers: int | None = None, *, kept: bool = False,
        pinned: bool = False, box: Boxes = UNIT, labels: str = CLASSES,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        self.size = sample_count(dataset)
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.kept, self.pinned, self.box, self.labels = kept, pinned, box, labels
        self._order = _Order()
        self._loader: DataLoader[Any] | None = None
        self._source: Reader | None = None  # of what a corrupted set is made of

    def batches(self, order: Tensor | Sequence[int] | None = None, seed: int = 0) -> Iterator[Batch]:
        """Yield batches, the images as they are held, uint8 or float32. A new reading ends the one before."""
        size, data = self.size, self.dataset
        order = torch.arange(size, device="cpu") if order is None else order
        positions = check_positions(order, size, "order")
        if isinstance(data, Corrupted):
            return self._corrupted(data, positions, seed)
        if isinstance(data, Held):
            return self._from_memory(data, positions.to(data.labels.device))
        workers = self.workers
        if workers is None:
            many = isinstance(data, FolderSet) and len(positions) >= _WORTH_WORKERS
            workers = min(8, os.cpu_count() or 1) if many else 0
        if self._loader is None or self._loader.num_workers != workers:
            self._loader = DataLoader(
                _Numbered(data, self.labels),
                batch_size=self.batch_size,
                sampler=self._order,
                num_workers=workers,
                collate_fn=partial(_collate, labels=self.labels),
                pin_memory=self.pinned,
                persistent_workers=self.kept and workers > 0,
                # A generator of the loader's: it would draw its workers' seed from the global one
                generator=torch.Generator(),
            )
        return self._read(self._loader, [(seed, position) for position in positions.tolist()])

    def _from_memory(self, data: Held, positions: Tensor) -> Iterator[Batch]:
        (low, high), boxes = data.box, self.box.values() if isinstance(self.box, Mapping) else [self.box]
        inside = all(first <= low and high <= last for first, last in boxes)
        for ids in torch.split(positions, self.batch_size) if len(positions) else ():
            x = data.take(ids)
            if self.pinned and x.is_cpu:
                x = x.pin_memory()  # from other memory, a GPU would be waited for
            if not inside or x.dtype == torch.uint8:  # to read values waits for a GPU
                check_images(x, str(getattr(data, "name", "dataset")), self.box)
            yield x, data.labels.index_select(0, ids), ids

    def _corrupted(self, data: Corrupted, positions: Tensor, seed: int) -> Iterator[Batch]:
        if self._source is None:
            options: dict[str, Any] = {"kept": self.kept, "labels": self.labels}
            self._source = Reader(data.source, self.batch_size, self.workers, **options)
        read = self._source.batches(data.rows[positions.cpu()], seed)
        for (x, y, rows), ids in zip(read, torch.split(positions, self.batch_size), strict=False):
            x = data.apply(x, rows)
            check_images(x, data.name, self.box)
            yield x, y, ids.to(rows.device)

    def close(self) -> None:
        """Let the processes that read ahead end."""
        self._loader = self._source = None

    def _read(self, loader: DataLoader[Any], keys: list[tuple[int, int]]) -> Iterator[Batch]:
        self._order.keys = keys
        with rng.CPU:
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            x, y, ids = batch
            what = f"samples {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"sample {ids[0]}"
            check_images(x, what, self.box)
            yield x, _classes(y, what, len(ids)) if self.labels != ANY else y, ids


class _Order(Sampler[tuple[int, int]]):
    """The seed of a reading and the position of each sample: they travel to the processes that read."""

    keys: list[tuple[int, int]]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Numbered(Dataset[Any]):
    """Items with their position. A bad image comes as its error, which would lose its text in a worker."""

    def __init__(self, dataset: Dataset[Any], labels: str = CLASSES) -> None:
        self.dataset, self.labels = dataset, labels

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        with rng.generators_kept(rng.CPU):
            return [self._checked(seed, position) for seed, position in keys]

    def _checked(self, seed: int, position: int) -> Any:
        try:
            image, label = self._item(seed, position)
        except (InputError, CorruptFileError) as error:
            return error
        if not isinstance(image, Tensor):
            return InputError(
                f"sample {position}: expected the image as a tensor, got {type(image).__name__}; convert it, "
                "or let fa.data.pairs do it"
            )
        return image, label, position

    def _item(self, seed: int, position: int) -> Any:
        if isinstance(self.dataset, FolderSet):
            return self.dataset.pixels(position), int(self.dataset.labels[position])
        rng.seed_all(rng.derive(seed, "sample", position))  # of what a transform draws
        item = self.dataset[position]
        if self.labels == ANY:
            return _any_labels(item)
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"sample {position}: expected a pair (image, label), got a {type(item).__name__}; "
                "pick the two with fa.data.pairs(dataset, image=..., label=...)"
            )
        return item


def _any_labels(item: Any) -> Any:
    """Return an image and its label as a tensor, of no value where there is none."""
    if isinstance(item, tuple | list) and len(item) == 1:
        item = item[0]
    image, label = (item, None) if isinstance(item, Tensor) else item
    if label is None:
        label = torch.empty(0, device="cpu")
    return image, label if isinstance(label, Tensor) else torch.as_tensor(np.array(label), device="cpu")


def _collate(items: list[Any], labels: str = CLASSES) -> Any:
    for item in items:
        if isinstance(item, Exception):
            return item
    shapes = {tuple(image.shape) for image, _, _ in items}
    if len(shapes) > 1:
        shown = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        return InputError(f"expected images of one shape, got {shown}; {HOW_TO_RESIZE}")
    of_labels = {np.shape(label) for _, label, _ in items}
    shown = " and ".join(str(list(shape)) for shape in sorted(of_labels))
    if labels == ANY and len(of_labels) > 1:
        return InputError(f"expected labels of one shape, got {shown}; resize or pad them")
    if labels != ANY and of_labels != {()}:
        do = _instead([label for _, label, _ in items]) if len(of_labels) == 1 else ""
        return InputError(f"expected integer labels, one for each image, got labels of shape {shown}{do}")
    with rng.CPU:  # torch's loader makes tensors on the default device
        return default_collate(items)


def _instead(labels: list[Any]) -> str:
    """Return what to pass in place of labels of one shape, as the end of an error."""
    try:
        y = torch.stack([torch.as_tensor(label, device="cpu") for label in labels])
    except (TypeError, ValueError, RuntimeError):  # no numbers
        return ""
    y = y[0] if y.ndim == 3 else y  # a list of batches, each taken for an image
    return instead("y", y, len(y))


def _classes(y: Any, what: str, count: int) -> Tensor:
    """Return labels as int64 [B]; InputError where they are no integers."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        one = y[0] if isinstance(y, list | tuple) else y
        got = one.dtype if isinstance(one, Tensor) else type(one).__name__
        do = instead("y", y, count) or "; convert them"
        raise InputError(f"{what}: expected integer labels [B], got {got}{do}")
    return y.long()
