"""The batches of an evaluation, which the processes of a run take in turn."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.core.result import NOT_FINITE
from fastadv.data._batches import batches
from fastadv.data.imageset import Boxes
from fastadv.data.sampling import first_samples
from fastadv.engine import Prepared
from fastadv.engine.by_row import FEWER
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.evaluation._outcome import Batch
from fastadv.runs import processes

T = TypeVar("T")


def in_turn(
    frozen: Prepared, dataset: Dataset[Any], batch_size: int, limit: int | None, box: Boxes,
    criterion: Criterion, work: Callable[[int, Batch], T], own: Callable[[int], Sequence[int]] = range,
) -> Iterator[T]:  # fmt: skip
    """Yield what `work` makes of the number of a batch and the batch, for each of them in their order.

    The batches are whole ones, as one process would take them, since rounding may depend on the size. Labels
    and logits are checked.

    box: of the data. criterion: says what is right. own: of the number of batches, which are worked on.
    """
    positions = first_samples(dataset, limit)
    _check_twins(frozen, dataset, positions, box)
    parts = torch.split(positions, batch_size)
    with processes.agreement():
        numbers = own(len(parts))
    mine = [parts[k] for k in numbers[processes.rank() :: processes.world()]]
    read = _with_verdict(frozen, dataset, mine, box, criterion)

    def make(place: int) -> tuple[bool, T]:
        batch = next(read)
        return not bool(batch.failed.all()), work(numbers[place], batch)

    usable = len(numbers) < len(parts)  # others may have finite logits
    for finite, made in processes.in_turn(len(numbers), make):
        usable = usable or finite
        yield made
    with processes.agreement():
        if not usable:
            raise InputError(NOT_FINITE)


def _check_twins(frozen: Prepared, dataset: Dataset[Any], positions: Tensor, box: Boxes) -> None:
    """Compare the twins on the same samples in all processes, and before any attack counts its passes."""
    with processes.agreement():
        for part in torch.split(positions, ROWS):
            x, _, _ = next(batches(dataset, ROWS, order=part, workers=0, box=box))
            if frozen.check(x.to(device=frozen.device)):
                return


def _with_verdict(
    frozen: Prepared, dataset: Dataset[Any], parts: Sequence[Tensor], box: Boxes, criterion: Criterion
) -> Iterator[Batch]:
    if not parts:
        return
    for batch in batches(dataset, len(parts[0]), order=torch.cat(list(parts)), box=box):
        x, y, ids = (tensor.to(device=frozen.device) for tensor in batch)
        frozen.begin(x, ids)
        try:
            logits = frozen.verdict(x)
        except Exception as error:
            if len(x) == len(parts[0]):
                raise
            raise InputError(FEWER.format(error, len(x), len(parts[0]))) from error
        if y.min() < 0 or y.max() >= logits.shape[1]:
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, "
                f"got {int(y.min())} to {int(y.max())}; map the labels"
            )
        yield Batch(x, y, ids, criterion.right(logits, y), ~logits.isfinite().all(1))
