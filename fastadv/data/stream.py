"""Images that come in an order of their own: loaders, iterable sets, WebDataset, FFCV, DALI."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from fastadv._checks import check_count
from fastadv.data._labels import check_labels
from fastadv.data.imageset import check_images
from fastadv.data.pairs import Key, part_of, to_image
from fastadv.errors import InputError

logger = logging.getLogger("fastadv")

NOTE = (
    "a stream: its images come in an order of its own, which no seed fixes, so a run is not repeated bit for "
    "bit, nor where it is resumed"
)


class Stream(IterableDataset[Any]):
    """Images to train on from a source that is no map-style set; the source decides their order.

    Samples are numbered as they come in an epoch, so that a number says nothing of the image. Where a run is
    resumed within an epoch, the batches it had are read and dropped.

    Args:
        source: something that gives an epoch each time it is iterated (a DataLoader, an iterable set), or a
            function of the epoch, from 1, that returns such a thing. Its items are single images, or batches
            of any size.
        samples: images of an epoch, over all processes. What a source has beyond them is left out. Each of W
            processes reads a stream of its own, of its share of every batch.
        image: the key or the place of the image in an item.
        label: the key or the place of the label in an item. A label is a class, or the probabilities [K] of
            the classes.
        name: for cards and titles.

    Raises:
        InputError: the source is another, such as an iterator, which cannot begin again; and while training,
            an epoch ends early, images are NaN, outside [0, 1] or of differing shapes, or labels are neither.
    """

    def __init__(
        self,
        source: Iterable[Any] | Callable[[int], Iterable[Any]],
        samples: int,
        *,
        image: Key = 0,
        label: Key = 1,
        name: str = "stream",
    ) -> None:
        if not callable(source) and (not isinstance(source, Iterable) or isinstance(source, Iterator)):
            raise InputError(
                f"source: expected a loader or an iterable set, which begins anew in every epoch, got "
                f"{type(source).__name__}; pass a function of the epoch that makes it"
            )
        self.source, self.samples = source, check_count("samples", samples, 1)
        self.image, self.label, self.name, self.note = image, label, name, NOTE

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._rows(1)

    @property
    def data_hash(self) -> str:
        """A text in place of a hash: nobody reads a stream before it is used."""
        return f"stream {self.name}"

    def describe(self) -> dict[str, Any]:
        """Return what a card says of the stream."""
        return {"name": self.name, "samples": self.samples, "note": self.note}

    def warn(self) -> None:
        """Log that the order is not promised."""
        logger.warning("%s: %s", self.name, self.note)

    @cached_property
    def head(self) -> tuple[Tensor, Tensor]:
        """The first item: x [b, C, H, W] and y [b]."""
        for rows in self._rows(1):
            return rows
        raise self._short(1, 0)

    def read(
        self, epoch: int, ids: Tensor, batch_size: int, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return the images of an epoch in batches (x, y, ids), one by one.

        Args:
            epoch: from 1.
            ids: int64 [M], the numbers of the images.
            batch_size: images of a batch.
            skip: how many images to leave out first.

        Raises:
            InputError: the epoch ends early, or its images or labels cannot be used.
        """
        held: list[tuple[Tensor, Tensor]] = []
        source, have, given = self._rows(epoch), -skip, 0
        for numbers in torch.split(ids, batch_size):
            while have < len(numbers):
                rows = next(source, None)
                if rows is None:
                    raise self._short(epoch, skip + given + have)
                fresh = min(len(rows[0]), have + len(rows[0]))
                have += len(rows[0])
                if fresh > 0:
                    held.append((rows[0][-fresh:], rows[1][-fresh:]))
            x, y = self._joined([x for x, _ in held], "images"), self._joined([y for _, y in held], "labels")
            held = [(x[len(numbers) :], y[len(numbers) :])]
            have, given = have - len(numbers), given + len(numbers)
            yield x[: len(numbers)], y[: len(numbers)], numbers

    def _short(self, epoch: int, got: int) -> InputError:
        return InputError(
            f"{self.name}: expected {self.samples} images in epoch {epoch}, got a stream that ended after "
            f"{got} in this process; give the samples that it has, or let the source begin anew"
        )

    def _joined(self, parts: list[Tensor], what: str) -> Tensor:
        kinds = {(tuple(part.shape[1:]), str(part.dtype)) for part in parts}
        if len(kinds) > 1:
            shown = ", ".join(f"{dtype} of {list(shape)}" for shape, dtype in sorted(kinds))
            raise InputError(
                f"{self.name}: expected {what} of one type and shape, got {shown}; convert or resize them"
            )
        return torch.cat(parts)

    def _rows(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x [b, C, H, W] and y, int64 [b] or float32 [b, K], of each item, checked."""
        source: Any = self.source
        # a class may be iterable and callable at once: what can be iterated is
        made = source if isinstance(source, Iterable) else source(epoch)
        # a set of samples by number is iterable, too
        if not (isinstance(made, Iterable) or hasattr(made, "__getitem__")):
            raise InputError(
                f"{self.name}: expected a function of the epoch that returns a loader or an iterable set, "
                f"got one that returns {type(made).__name__}"
            )
        for number, item in enumerate(made):
            what = f"{self.name}: item {number} of epoch {epoch}"
            x, y = to_image(part_of(item, self.image, what), what), part_of(item, self.label, what)
            try:
                y = torch.as_tensor(y)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(f"{what}: expected integer labels, got {type(y).__name__}") from error
            if x.ndim == 3:
                x, y = x[None], y.reshape(1, -1)
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            if x.ndim != 4 or not y.ndim or len(y) != len(x):
                raise InputError(
                    f"{what}: expected images [B, C, H, W] and integer labels [B], got {list(x.shape)} and "
                    f"{y.dtype} of shape {list(y.shape)}"
                )
            check_images(x, what)
            yield x, check_labels(y.cpu(), what)
