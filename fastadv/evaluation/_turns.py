"""The batches of an evaluation, which the processes of a run take in turn."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv.data import batches
from fastadv.data.batch_size import FIRST, fastest_batch_size
from fastadv.engine import Frozen
from fastadv.engine.copying.twin import device_of
from fastadv.engine.frozen import CHECK_ROWS
from fastadv.errors import InputError
from fastadv.evaluation._outcome import Batch
from fastadv.runs import processes

T = TypeVar("T")


def in_turn(
    frozen: Frozen, dataset: Dataset[Any], batch_size: int, limit: int | None, work: Callable[[int, Batch], T]
) -> Iterator[T]:
    """Yield what `work` makes of the number of a batch and the batch, for each of them in their order.

    The batches are whole ones, as one process would take them, since rounding may depend on the size. Labels
    and logits are checked.
    """
    size = len(dataset)  # type: ignore[arg-type]
    positions = torch.arange(size if limit is None else min(limit, size))
    _check_twins(frozen, dataset, positions)
    parts = torch.split(positions, batch_size)
    own = _with_verdict(frozen, dataset, parts[processes.rank() :: processes.world()])

    def make(number: int) -> tuple[bool, T]:
        batch = next(own)
        return not bool(batch.failed.all()), work(number, batch)

    usable = False
    for finite, made in processes.in_turn(len(parts), make):
        usable = usable or finite
        yield made
    with processes.agreement():
        if not usable:
            raise InputError(
                "model: expected finite logits, got NaN or infinity for every sample; "
                "check its weights and input scale"
            )


def chosen_batch_size(frozen: Frozen, dataset: Dataset[Any], limit: int | None) -> int:
    """Return the size that "auto" stands for; the first process chooses for all."""

    def choose() -> int:
        count = len(dataset) if limit is None else min(limit, len(dataset))  # type: ignore[arg-type]
        first = torch.arange(min(FIRST, count))
        x, _, _ = next(batches(dataset, len(first), order=first, workers=0))
        return fastest_batch_size(frozen, x.to(device=_device(frozen)), count)

    return processes.from_first(choose)


def _check_twins(frozen: Frozen, dataset: Dataset[Any], positions: Tensor) -> None:
    """Compare the twins on the same samples in all processes, and before any attack counts its passes."""
    with processes.agreement():
        for part in torch.split(positions, CHECK_ROWS):
            x, _, _ = next(batches(dataset, CHECK_ROWS, order=part, workers=0))
            if frozen.check(x.to(device=_device(frozen))):
                return


def _with_verdict(frozen: Frozen, dataset: Dataset[Any], parts: Sequence[Tensor]) -> Iterator[Batch]:
    if not parts:
        return
    for batch in batches(dataset, len(parts[0]), order=torch.cat(list(parts))):
        x, y, ids = (tensor.to(device=_device(frozen)) for tensor in batch)
        logits = frozen.verdict(x)
        if y.min() < 0 or y.max() >= logits.shape[1]:
            raise InputError(
                f"dataset: expected labels from 0 to {logits.shape[1] - 1}, the model's classes, "
                f"got {int(y.min())} to {int(y.max())}; map the labels"
            )
        yield Batch(x, y, ids, logits.argmax(1), ~logits.isfinite().all(1))


def _device(frozen: Frozen) -> torch.device | None:
    """Return where its samples must lie; None for a function, which takes them where they are."""
    return device_of(frozen.model) if isinstance(frozen.model, nn.Module) else None
