"""Images held in memory, or mapped into it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv.data._rows import MappedRows
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.labels import instead
from fastadv.text import several
from fastadv.threat.base import box_in, check_box

Box = tuple[float, float]
Boxes = Box | Mapping[str, Box]  # one, or those of several threats by their names
UNIT: Box = (0.0, 1.0)


def to_unit(x: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]: uint8 is divided by 255, float32 returned as it is."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def check_images(x: Tensor, what: str, box: Boxes = UNIT) -> None:
    """Raise InputError unless `x` is float32 with every value in each box, or uint8 and these are [0, 1]."""
    if x.dtype not in (torch.uint8, torch.float32):
        raise InputError(
            f"{what}: expected pixels as uint8 (0..255) or float32 (0..1), got {x.dtype}; convert them"
        )
    whole = x.dtype == torch.uint8  # its values are not read
    low, high = (0.0, 1.0) if whole or not x.numel() else map(float, x.aminmax())
    if math.isnan(low):
        raise InputError(f"{what}: expected finite pixels, got NaN; check where the images come from")
    for name, (first, last) in box.items() if isinstance(box, Mapping) else [("", box)]:
        wanted = f"in [{first:g}, {last:g}]" + (f", the box of {name}" if name else "")
        if whole and any(math.isfinite(end) and not 0 <= end <= 1 for end in (first, last)):
            raise InputError(
                f"{what}: expected float32 values {wanted}, got uint8, which is served in [0, 1]; convert "
                "them with x.float(), or give the threat the box (0, 1)"
            )
        least, most = box_in((first, last), torch.float32)
        if not whole and (low < least or high > most or math.isinf(high - low)):
            raise InputError(
                f"{what}: expected pixels {wanted}, got {low:.4g} to {high:.4g}; rescale them, and let "
                "fa.models.adapt(net, mean=..., std=...) normalize: a radius is in the units of x; what is "
                "no image has a box=(low, high), which threats, sets and certificates take"
            )


def check_positions(positions: Tensor | Sequence[int], size: int, what: str) -> Tensor:
    """Return `positions` as an int64 tensor [M]; InputError unless each is in 0..size-1."""
    index = torch.as_tensor(positions, device=getattr(positions, "device", "cpu"))
    if index.numel() == 0:
        return index.long().reshape(0)
    if index.ndim != 1 or index.dtype == torch.bool or index.is_floating_point():
        raise InputError(
            f"{what}: expected a list of sample positions, got {index.dtype} {list(index.shape)}"
        )
    low, high = (int(value) for value in index.aminmax())
    if low < 0 or high >= size:
        raise InputError(f"{what}: expected positions from 0 to {size - 1}, got {low} to {high}")
    return index.long()


def check_classes(y: Tensor, classes: Sequence[str] | int, what: str) -> tuple[str, ...]:
    """Return the names of the classes; InputError unless every label is one of them."""
    names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    low, high = (int(value) for value in y.aminmax())
    if low < 0 or high >= len(names):
        raise InputError(
            f"{what}: expected labels from 0 to {len(names) - 1}, got {low} to {high}; "
            "give classes for all of them"
        )
    return names


class Images(Dataset[tuple[Tensor, Any]]):
    """What all sets have: labels int64 [N], the names of the classes, and a note for readers of results."""

    labels: Tensor
    classes: tuple[str, ...]
    name: str
    note: str
    # The first images stand for all, as everybody's first N of a published set do
    fixed_order = False

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        raise NotImplementedError

    @property
    def data_hash(self) -> str:
        """Hash of images and labels."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what a card says of this set: name, size, shape, classes, hash and note."""
        return {
            "name": self.name,
            "samples": len(self),
            "shape": list(self.shape),
            "classes": list(self.classes),
            "data_hash": self.data_hash,
            "note": self.note,
        }

    def __len__(self) -> int:
        return len(self.labels)


class Held(Images):
    """A set in memory, or mapped into it: it gives any images at once, all of them in `box`."""

    box = UNIT

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        raise NotImplementedError

    def take(self, positions: Tensor) -> Tensor:
        """Return images as they are held, uint8 or float32."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Self:
        """Return the set on another device, copied as a whole; batches are then served there."""
        raise NotImplementedError

    def __getitem__(self, position: int) -> tuple[Tensor, Any]:
        label, at = int(self.labels[position]), torch.tensor([position % len(self)], device="cpu")
        return to_unit(self.take(at)[0]), label

    def __repr__(self) -> str:
        images = f"{several(len(self), 'image' if len(self.shape) == 3 else 'sample')} of {list(self.shape)}"
        return f"{type(self).__name__}({self.name!r}, {images}, {self.num_classes} classes)"


class ImageSet(Held):
    """Images, or points, and labels in memory; item i is (float32 [C, H, W] in [0, 1], label).

    Args:
        x: [N, C, H, W] or [N, D], uint8 (served divided by 255) or float32 in [0, 1]. Images that lie in
            files, as those of a constructed set, are read as a whole when `x` is first asked for, and else
            row by row.
        y: int64 [N] from 0 to K - 1, on the same device; also available as `labels`.
        classes: the K names, or K.
        name: for cards and titles.
        note: what a reader of results on this set must know.
        box: (low, high), in which float32 values lie. It holds wherever no threat says another.
        ndim: of x, where it is another, as of series [N, C, L]; None takes images and points.

    Example:
        >>> import torch, fastadv as fa
        >>> images = fa.data.ImageSet(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, 3, "noise")
        >>> len(images), images.shape, images.classes
        (6, (1, 8, 8), ('0', '1', '2'))
    """

    def __init__(
        self, x: Tensor | MappedRows, y: Tensor, classes: Sequence[str] | int, name: str, *, note: str = "",
        box: Box = UNIT, ndim: int | None = None,
    ) -> None:  # fmt: skip
        if len(x.shape) not in ((2, 4) if ndim is None else (ndim,)) or y.ndim != 1 or len(x) != len(y):
            raise InputError(
                f"{name}: expected x [N, C, H, W] or [N, D] and y [N], got {list(x.shape)} and "
                f"{list(y.shape)}" + (instead("y", y, len(x)) if y.ndim > 1 else "; of others pass ndim=")
            )
        if x.shape.numel() == 0:
            raise InputError(
                f"{name}: expected at least one image, got an empty set of shape {list(x.shape)}"
            )
        if y.dtype != torch.int64 or y.device != x.device:
            raise InputError(
                f"{name}: expected labels int64 on {x.device}, got {y.dtype} on {y.device}; use y.long()"
            )
        self.box, self._ndim = check_box(box), ndim
        if isinstance(x, Tensor):
            check_images(x, name, self.box)
        elif x.chosen is None:  # those of a subset were checked with their set
            for piece in x.pieces():
                check_images(piece, name, self.box)
        self.classes = check_classes(y, classes, name)
        self._rows, self.y, self.labels, self.name, self.note = x, y, y, name, note

    @property
    def x(self) -> Tensor:
        """The images [N, C, H, W], in memory."""
        if isinstance(self._rows, MappedRows):
            self._rows = self._rows.joined()
        return self._rows

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._rows.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """uint8 or float32, as the images are held."""
        return self._rows.dtype

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    @property
    def data_hash(self) -> str:
        return data_hash(self._rows, self.y)

    def subset(self, positions: Tensor | Sequence[int]) -> "ImageSet":
        """Return some of the images. Those of a set in files stay there."""
        index = check_positions(positions, len(self), self.name).to(self.y.device)
        return self._with(self._picked(index), self.y[index])

    def only(self, classes: Sequence[int]) -> "ImageSet":
        """Return the images of some classes alone, in their order here: `only([3, 7])` is 3 against 7."""
        chosen = [int(k) for k in classes]
        known = all(0 <= k < self.num_classes for k in chosen)
        if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not known:
            raise InputError(
                f"{self.name}: expected two or more different classes from 0 to {self.num_classes - 1}, "
                f"got {list(classes)}"
            )
        renumbered = torch.full((self.num_classes,), -1, device=self.y.device)
        renumbered[chosen] = torch.arange(len(chosen), device=self.y.device)
        y = renumbered[self.y]
        names = [self.classes[k] for k in chosen]
        if missing := [name for k, name in enumerate(names) if not bool((y == k).any())]:
            raise InputError(f"{self.name}: expected images of every class, got none of {', '.join(missing)}")
        name = f"{self.name}, {' against '.join(names)}"
        kept = (y >= 0).nonzero()[:, 0]
        return self._with(self._picked(kept), y[kept], names, name)

    def _picked(self, index: Tensor) -> Tensor | MappedRows:
        return self._rows.picked(index) if isinstance(self._rows, MappedRows) else self.take(index)

    def take(self, positions: Tensor) -> Tensor:
        rows = self._rows
        if isinstance(rows, MappedRows):
            return rows.take(positions)
        return rows.index_select(0, positions.to(rows.device))

    def to(self, device: torch.device | str) -> "ImageSet":
        return self._with(self.x.to(device), self.y.to(device))

    def _with(
        self, x: Tensor | MappedRows, y: Tensor, classes: Sequence[str] = (), name: str = ""
    ) -> "ImageSet":
        kept: dict[str, Any] = {"note": self.note, "box": self.box, "ndim": self._ndim}
        return ImageSet(x, y, classes or self.classes, name or self.name, **kept)
