"""What callers hand over as data: a set, two tensors, a loader, or batches."""

from collections.abc import Iterable
from contextlib import nullcontext
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate
from torch.utils.data import sampler as samplers

from fastadv import rng
from fastadv._checks import kind_of
from fastadv.errors import InputError
from fastadv.labels import instead

Data = Dataset[Any] | tuple[Tensor, Tensor] | Iterable[Any]
ANY, CLASSES = "any", "classes"  # what labels may be: tensors like each other or none, or a class each


def as_dataset(data: Data | Tensor, name: str = "dataset", labels: str = CLASSES) -> Dataset[Any]:
    """Return data as a set with items by number: of a loader its set, if it reads each item once.

    Images without labels are a tensor [N, ...], (x, None) or batches of images, where labels may be any.
    """
    if isinstance(data, DataLoader) and (read := read_by(data)) is not None:
        return read
    batches = _batches_in(data, name, labels)
    # what is no set, either, is told where its samples are counted
    return data if batches is None else _held(batches, name, labels)  # type: ignore[return-value]


def _batches_in(data: Any, name: str, labels: str) -> Iterable[Any] | None:
    """Return the batches that data are; None for items by number, and for what cannot be read once."""
    two = isinstance(data, tuple | list) and len(data) == 2
    if labels == ANY and two and data[1] is None:
        if not isinstance(data[0], Tensor):
            got = _shown(data[0])
            raise InputError(f"{name}: expected images as a tensor, got {got}; use torch.as_tensor")
        return [data[0]]
    if isinstance(data, Tensor):
        if labels != ANY:
            raise InputError(f"{name}: expected images and labels (x, y), got {_shown(data)} alone")
        return [data]
    if two and isinstance(data[0], Tensor | np.ndarray):
        if not all(isinstance(part, Tensor) for part in data):
            raise InputError(f"{name}: expected (x, y) as tensors, got {_shown(data)}; use torch.as_tensor")
        if labels == ANY and isinstance(data, list) and _are_images(*data):
            return data if _is_batch(data[0], labels) else None
        return [data]
    if isinstance(data, list | tuple):
        return data if len(data) and _begins_batches(data[0], labels) else None
    by_number = hasattr(data, "__getitem__") or isinstance(data, IterableDataset)
    return data if isinstance(data, Iterable) and not by_number else None


def read_by(loader: DataLoader[Any], *, rest: bool = True) -> Dataset[Any] | None:
    """Return the set of which a loader reads each item once, also the `rest`; None of another loader."""
    batches: Any = loader.batch_sampler
    plain = loader.collate_fn is default_collate and type(batches) is samplers.BatchSampler
    if not plain or (rest and batches.drop_last):
        return None
    sampler, kind = batches.sampler, type(batches.sampler)
    if kind is samplers.SubsetRandomSampler:
        return Subset(loader.dataset, np.asarray(sampler.indices).tolist())
    if kind is not samplers.SequentialSampler and (kind is not samplers.RandomSampler or sampler.replacement):
        return None
    sizes = {len(one) for one in (sampler, sampler.data_source, loader.dataset)}  # type: ignore[arg-type]
    return loader.dataset if len(sizes) == 1 else None


def _are_images(x: Tensor, y: Tensor) -> bool:
    """Return whether two tensors are images of one shape, so that the second holds no labels of the first."""
    return 2 < x.ndim == y.ndim and x.shape[1:] == y.shape[1:]


def _is_paired(item: Any) -> bool:
    """Return whether an item is two tensors, images [B, ...] and as many labels [B, ...]."""
    if not (isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(t, Tensor) for t in item)):
        return False
    x, y = item
    return bool(x.ndim > 1 and y.ndim and len(x) == len(y))


def _is_batch(item: Any, labels: str) -> bool:
    """Return whether an item is images [B, ...], with their labels where these are classes."""
    if isinstance(item, Tensor):
        return labels == ANY and item.ndim > 3
    return _is_paired(item) and (labels == ANY or (item[1].ndim == 1 and not item[1].is_floating_point()))


def _begins_batches(item: Any, labels: str) -> bool:
    """Return whether the first item of a list is a batch, or meant as one, which `_held` tells in words.

    With any labels nobody sees whether [C, H, W] and C labels are a batch or one image: they are an image.
    """
    if isinstance(item, Tensor) or not _is_paired(item):
        return _is_batch(item, labels)
    x, y = item
    return x.ndim != 3 if labels == ANY else y.ndim > 1 or not y.is_floating_point()


def _held(batches: Iterable[Any], name: str, labels: str) -> Dataset[Any]:
    drawn = isinstance(batches, DataLoader)  # its order, by torch's generator
    with rng.generators_kept(rng.CPU, rng.derive(0, name)) if drawn else nullcontext():
        parts = list(batches)
    if labels == ANY:
        parts = [(x, torch.empty(len(x), 0, device="cpu")) if isinstance(x, Tensor) else x for x in parts]
    for part in parts:
        if not _is_batch(part, labels):
            single = isinstance(part, list | tuple) and len(part) == 2 and getattr(part[1], "ndim", 1) == 0
            others = instead("y", part[1], len(part[0])) if _is_paired(part) else ""
            do = "; add a batch dimension: (x[None], y[None])" if single else others
            raise InputError(f"{name}: expected batches (x [B, ...], y int [B]), got {_shown(part)}{do}")
    shapes = {tuple(x.shape[1:]) for x, _ in parts}
    if len(shapes) != 1:
        raise InputError(f"{name}: expected images of one shape, got {sorted(shapes) or 'no batch'}")
    y = torch.cat([y.detach().cpu() for _, y in parts])
    images = [x.detach() for x, _ in parts]
    del batches, parts, part  # each image leaves its batch when it is in the set, which is in memory once
    dtype = reduce(torch.promote_types, {x.dtype for x in images})
    whole = torch.empty((len(y), *images[0].shape[1:]), dtype=dtype, device="cpu")
    done = len(y)
    while images:
        x = images.pop()
        done -= len(x)
        whole[done : done + len(x)] = x
    return TensorDataset(whole, y)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple) and len(value) <= 2:
        return f"({', '.join(map(_shown, value))})"
    return kind_of(value)
