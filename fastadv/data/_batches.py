"""A data set in batches, with the number of every sample."""

import os
import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from fastadv import rng
from fastadv._checks import check_count
from fastadv.data.folder import FolderSet
from fastadv.data.imageset import Held, check_images, check_positions, to_unit
from fastadv.errors import CorruptFileError, InputError

Batch = tuple[Tensor, Tensor, Tensor]

# Fewer images than this are read before worker processes have started.
_WORTH_WORKERS = 256


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    order: Tensor | Sequence[int] | None = None,
    *,
    workers: int | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Yield (x float32 [B, C, H, W] in [0, 1], y int64 [B], ids int64 [B]); the last batch may be smaller.

    dataset: an ImageSet, NpzSet or Mixture (served from memory, on its device), or any map-style data set of
        (image, label) pairs whose images are uint8 or float32 tensors.
    order: the positions to serve, in that order; None: all, from first to last. ids are positions in
        `dataset`: a sample keeps its number in any order and batch size.
    workers: processes that read ahead (None: up to 8 for images on disk, none otherwise). Their number
        changes no result.
    seed: keys, with the sample's number, what the data set itself draws from torch, NumPy or `random`; their
        own states stay as they are.

    InputError for an empty set, positions out of range, images of differing shapes, pixels outside [0, 1] or
    NaN. CorruptFileError for a damaged image file.
    """
    raw = raw_batches(dataset, batch_size, order, workers=workers, seed=seed)
    return ((to_unit(x), y, ids) for x, y, ids in raw)


def raw_batches(
    dataset: Dataset[Any],
    batch_size: int,
    order: Tensor | Sequence[int] | None = None,
    *,
    workers: int | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Yield the same with the images as they are held, uint8 or float32: a quarter of the bytes to move."""
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    size = sample_count(dataset)
    positions = torch.arange(size) if order is None else check_positions(order, size, "order")
    if isinstance(dataset, Held):
        return _from_memory(dataset, positions.to(dataset.labels.device), batch_size)
    if workers is None:
        many = isinstance(dataset, FolderSet) and len(positions) >= _WORTH_WORKERS
        workers = min(8, os.cpu_count() or 1) if many else 0
    return _from_loader(_Numbered(dataset, seed), positions, batch_size, workers)


def sample_count(dataset: Dataset[Any], limit: int | None = None, name: str = "dataset") -> int:
    """Return the number of samples, at most `limit`; InputError where there are none, or for another one."""
    size = len(dataset) if isinstance(dataset, Sized) else 0
    if size == 0:
        raise InputError(
            f"{name}: expected a data set with a length and at least one image, got an empty or unsized one"
        )
    return size if limit is None else min(check_count("limit", limit, 1), size)


def _from_memory(dataset: Held, positions: Tensor, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(positions), batch_size):
        ids = positions[start : start + batch_size]
        yield dataset.take(ids), dataset.labels.index_select(0, ids), ids


class _Numbered(Dataset[Any]):
    """Items with their position. A bad image comes as its error, which would lose its text in a worker."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, position: int) -> Any:
        try:
            image, label = self._item(position)
        except (InputError, CorruptFileError) as error:
            return error
        if not isinstance(image, Tensor):
            return InputError(
                f"sample {position}: expected the image as a tensor, got {type(image).__name__}; convert it"
            )
        return image, label, position

    def _item(self, position: int) -> Any:
        if isinstance(self.dataset, FolderSet):
            return self.dataset.pixels(position), int(self.dataset.labels[position])
        with _keyed(rng.derive(self.seed, "sample", position)):
            return self.dataset[position]


@contextmanager
def _keyed(seed: int) -> Iterator[None]:
    """Let what torch, NumPy and `random` draw here depend on `seed` alone, and change no later draw."""
    old_random, old_numpy = random.getstate(), np.random.get_state()
    try:
        with rng.torch_seeded(seed, torch.device("cpu")):
            random.setstate(random.Random(seed).getstate())
            np.random.set_state(np.random.RandomState(seed % 2**32).get_state())
            yield
    finally:
        random.setstate(old_random)
        np.random.set_state(old_numpy)


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, Exception):
            return item
    shapes = {tuple(image.shape) for image, _, _ in items}
    if len(shapes) > 1:
        shown = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        return InputError(
            f"expected images of one shape, got {shown}; load the set with size= to resize and crop them"
        )
    return default_collate(items)


def _from_loader(dataset: _Numbered, positions: Tensor, batch_size: int, workers: int) -> Iterator[Batch]:
    # with a generator of its own, because the loader would draw its workers' seed from the global one
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=positions.tolist(),
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        x, y, ids = batch
        check_images(x, f"samples {ids[0]} to {ids[-1]}")
        if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
            got = f"{y.dtype} of shape {list(y.shape)}" if isinstance(y, Tensor) else type(y[0]).__name__
            raise InputError(f"samples {ids[0]} to {ids[-1]}: expected integer labels [B], got {got}")
        yield x, y.long(), ids
