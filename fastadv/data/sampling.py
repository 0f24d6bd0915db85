"""Which samples of a data set stand for all of it: those held out, and the first ones of a mixed set."""

import hashlib
import logging
from collections.abc import Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from fastadv import rng
from fastadv._checks import check_count, check_seed
from fastadv.errors import InputError

logger = logging.getLogger("fastadv")

ASKED = 16  # items that are read, each of another class, to see whether a set gives the labels that it tells
_SEED = 0  # of the samples drawn in place of the first ones
BY_CLASS = f"drawn by class, each by its share, with seed {_SEED}"


class HeldOut(NamedTuple):
    """The result of `hold_out`: the rest, the images held out, and how they were chosen."""

    rest: Any
    held_out: Any
    about: dict[str, Any]


def sample_count(dataset: Dataset[Any], limit: int | None = None, name: str = "dataset") -> int:
    """Return the number of samples, at most `limit`; InputError where there are none, or for another one."""
    try:
        size = len(dataset) if isinstance(dataset, Sized) else 0
    except TypeError:  # a loader over a stream
        size = 0
    numbered = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if size == 0 or not numbered:
        got = "an empty one or one without a length" if numbered else type(dataset).__name__
        raise InputError(
            f"{name}: expected a data set with a length, items by number and at least one image, got {got}; "
            "collect the images of a stream in a fa.data.ImageSet, or train in a loop of your own"
        )
    return size if limit is None else min(check_count("limit", limit, 1), size)


def first_samples(dataset: Dataset[Any], limit: int | None = None, *, tell: bool = False) -> Tensor:
    """Return the positions [N] of the samples that stand for the set, at most `limit`, in their order.

    They are the first ones. Where the set is sorted and its labels are known, as many are drawn instead, each
    class by its share, with a fixed seed; `tell` logs that.
    """
    count = sample_count(dataset, limit)
    size = sample_count(dataset)
    positions = torch.arange(count, device="cpu")
    labels = None if count == size or getattr(dataset, "fixed_order", False) else known_labels(dataset)
    if labels is None or not _sorted(labels, count):
        return positions
    if tell:
        logger.warning(
            "the data set looks sorted: its first %d of %d samples do not represent all classes, so %d are "
            "%s instead", count, size, count, BY_CLASS,
        )  # fmt: skip
    return _of_each(labels, count, rng.derive(_SEED, "first samples"))


def part_of(dataset: Any, limit: int | None) -> Any:
    """Return a part that stands for a set; its note says where it is not the first samples."""
    if limit is None or sample_count(dataset, limit) == len(dataset):
        return dataset
    positions = first_samples(dataset, limit, tell=True)
    part = dataset.subset(positions)
    if int(positions[-1]) >= limit:
        _note(part, f"{limit} of {len(dataset)} images, {BY_CLASS}, as the set is sorted")
    return part


def hold_out(dataset: Any, count: int, seed: int = 0) -> HeldOut:
    """Hold out images at random, of each class by its share where labels are known without reading images.

    The choice is a function of (labels, count, seed).

    Args:
        dataset: a set with `subset`.
        count: how many images to hold out.
        seed: of the choice.

    Returns:
        The `HeldOut` with the rest, the images held out, whose note says how they were chosen, and the same
        as a dictionary.

    Raises:
        InputError: the set has no `subset`, or count is not from 1 to one below the number of images.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits")
        >>> rest, held_out, about = fa.data.hold_out(digits, 100)
        >>> len(held_out), len(rest) + len(held_out) == len(digits)
        (100, True)
    """
    size = sample_count(dataset)
    check_count("count", count, 1)
    check_seed(seed)
    if not hasattr(dataset, "subset"):
        raise InputError(
            f"dataset: expected a set with `subset`, got {type(dataset).__name__}; put its images in a "
            "fa.data.ImageSet"
        )
    if count >= size:
        raise InputError(f"count: expected fewer than the {size} images, got {count}")
    labels, key = known_labels(dataset), rng.derive(seed, "hold out")
    if labels is None:
        held, method = rng.permutation(size, key)[:count].sort().values, "permutation"
    else:
        held, method = _of_each(labels, count, key), "permutation by class"
    left = torch.ones(size, dtype=torch.bool, device="cpu")
    left[held] = False
    digest = hashlib.sha256(held.numpy().astype("<i8").tobytes()).hexdigest()[:16]
    about = {"count": count, "method": method, "seed": seed, "digest": digest}
    part = dataset.subset(held)
    note = f"{count} of {size} images, held out by {method}, seed {seed}, digest {digest}"
    _note(part, note)
    return HeldOut(dataset.subset(left.nonzero().flatten()), part, about)


def _note(part: Any, note: str) -> None:
    part.note = f"{part.note}; {note}" if part.note else note


def known_labels(dataset: Any, label: str | int = 1) -> Tensor | None:
    """Return the labels int64 [N] of a set that tells them without reading images; None for another.

    Items of classes that are not the library's or torch's are asked for their `label`, a few of them.
    """
    try:
        labels = torch.as_tensor(_stated_labels(dataset, label), device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    integers = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    if not integers or len(labels) != len(dataset) or not len(labels):
        return None
    labels = labels.long()
    return labels if _gives(dataset, labels, label) else None


def _stated_labels(dataset: Any, label: str | int) -> Any:
    """Return labels as a set states them, whatever they are; None where it states none."""
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset, label)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, device="cpu")]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part, label) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[1]
    if getattr(dataset, "target_transform", None) is not None:  # of torchvision's sets
        return None
    labels = getattr(dataset, "labels", None)
    return getattr(dataset, "targets", None) if labels is None else labels


def _gives(dataset: Any, labels: Tensor, key: str | int) -> bool:
    """Tell whether items have the labels that the set states of them: a subclass may map them, as y % 2."""
    if str(getattr(type(dataset).__getitem__, "__module__", "")).startswith(("fastadv.", "torch.")):
        return True
    _, first = np.unique(labels.numpy(), return_index=True)
    try:
        with rng.generators_kept(rng.CPU):
            places = first[:: -(-len(first) // ASKED)].tolist()
            return all(int(dataset[place][key]) == int(labels[place]) for place in places)
    except Exception:  # no pair, as of a set that `pairs` reads, or an image that nobody may ask for
        return True


def _sorted(labels: Tensor, count: int) -> bool:
    """Return whether labels come in runs, or the first ones lack a class whose share of them would be twelve.

    In runs: neighbors differ at most half as often as in a random order.
    """
    _, numbers, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    whole = len(labels)
    changes = int((labels[1:] != labels[:-1]).sum())
    if 0 < 2 * changes * whole <= whole**2 - int((sizes**2).sum()):
        return True
    here = torch.bincount(numbers[:count], minlength=len(sizes))
    return bool(((here == 0) & (sizes * count >= 12 * whole)).any())


def _of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return random positions int64 [count], of each class by its share, in their order."""
    order = rng.permutation(len(labels), seed)
    by_class = order[labels[order].argsort(stable=True)]
    evenly = (2 * torch.arange(count, device="cpu") + 1) * len(labels) // (2 * count)
    return by_class[evenly].sort().values
