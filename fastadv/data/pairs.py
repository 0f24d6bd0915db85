"""Any map-style data set as one of (image, label) pairs: mappings, tuples of three, PIL images."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv._checks import knowing
from fastadv.data.content import describe_data
from fastadv.data.folder import eight_bits
from fastadv.data.sampling import known_labels, sample_count
from fastadv.errors import InputError

Key = str | int
# The keys that a set means by its `labels` or `targets`; in a tuple the place behind the image
LABELS = ("label", "labels", "target", "targets", 1)


def entry_of(item: Any, key: Key, what: str) -> Any:
    """Return what an item holds under a key or at a place; InputError, naming what it holds, without it."""
    try:
        return item[key]
    except (KeyError, IndexError, TypeError) as error:
        size = len(item) if isinstance(item, Sequence | Tensor | np.ndarray) else 0
        keys = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"places 0 to {size - 1}"
        raise InputError(
            f"{what}: expected {key!r} in each item, got {type(item).__name__} with {keys}; name the parts "
            "with image= and label="
        ) from error


def to_image(value: Any, what: str) -> Tensor:
    """Return an image as a tensor: a tensor as it is; an array [H, W] or [H, W, C] and a PIL image turned."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "convert") and hasattr(value, "mode"):
        try:
            value = eight_bits(value)
        except ValueError as error:
            raise InputError(
                f"{what}: expected an image of 8 or 16 bits, got {error}; give transform="
            ) from None
        value = np.array(value if value.mode in ("L", "RGB") else value.convert("RGB"))
    if isinstance(value, np.ndarray) and value.ndim in (2, 3):
        rows = torch.from_numpy(np.ascontiguousarray(value))
        return rows[None] if rows.ndim == 2 else rows.permute(2, 0, 1).contiguous()
    raise InputError(
        f"{what}: expected the image as a tensor [C, H, W], an array [H, W, C] or a PIL image, got "
        f"{type(value).__name__}; turn it with transform="
    )


class Pairs(Dataset[tuple[Tensor, Any]]):
    """The set that `pairs` makes; `labels` are [N] where they are told without reading images, else None."""

    def __init__(
        self, dataset: Any, image: Key, label: Key, transform: Callable[[Any], Any] | None, name: str
    ) -> None:
        self.dataset, self.image, self.label = dataset, image, label
        self.transform, self.name = transform, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[Tensor, Any]:
        what = f"sample {position}"
        item = self.dataset[position]
        image, label = (entry_of(item, key, what) for key in (self.image, self.label))
        return to_image(image if self.transform is None else self.transform(image), what), label

    @cached_property
    def labels(self) -> Tensor | None:
        """Labels of a set with columns by name, or with `targets`."""
        if self.label not in getattr(self.dataset, "column_names", ()):
            return known_labels(self.dataset, self.label) if self.label in LABELS else None
        try:
            column = self.dataset[self.label]
            numbers = column if isinstance(column, Tensor | np.ndarray) else list(column)
            return torch.as_tensor(numbers, device="cpu")
        # The labels are no numbers, as an item that is read says; or the set transforms whole items alone
        except (TypeError, ValueError, KeyError):
            return None

    def describe(self) -> dict[str, Any]:
        """Return what a card says of the set."""
        return {"name": self.name, "samples": len(self), "data_hash": describe_data(self).split()[-1]}


@knowing
def pairs(
    dataset: Any, image: Key = "image", label: Key = "label", *,
    transform: Callable[[Any], Any] | None = None, name: str = "pairs",
) -> Pairs:  # fmt: skip
    """Return a data set of (image, label) pairs made of another map-style set.

    Args:
        dataset: items by number, each a mapping, as those of Hugging Face's `datasets`, or a tuple.
        image: the key of the image, or its place in a tuple.
        label: the same of the label, an integer.
        transform: a function of the image, which gives a tensor [C, H, W], an array [H, W] or [H, W, C], or a
            PIL image, uint8 or float32 in [0, 1]; None takes it as it is.
        name: for cards and titles.

    Returns:
        A `Pairs`.

    Raises:
        InputError: the set has no items or no length; when an item is read, it lacks a part or its image is
            something else.

    Example:
        >>> import numpy as np, fastadv as fa
        >>> rows = [{"image": np.zeros((8, 8, 3), np.uint8), "label": 3} for _ in range(5)]
        >>> image, label = fa.data.pairs(rows)[0]
        >>> tuple(image.shape), int(label)
        ((3, 8, 8), 3)
    """
    if isinstance(dataset, Mapping):  # Hugging Face's DatasetDict
        raise InputError(
            f"dataset: expected one set, got a {type(dataset).__name__} of {', '.join(map(str, dataset))}; "
            "choose one of its parts"
        )
    sample_count(dataset)
    if transform is not None and not callable(transform):
        raise InputError(f"transform: expected a function of an image, got {type(transform).__name__}")
    return Pairs(dataset, image, label, transform, name)
