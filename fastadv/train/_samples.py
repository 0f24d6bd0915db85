"""Tensors with a row for each sample, shared by the processes that pass the samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastadv.runs import processes


@dataclass
class SampleRows:
    """What a recipe keeps of each of `size` samples.

    A process holds the rows of the samples that it passes in an epoch. They move once an epoch, when they are
    first read, to where the samples are then; an epoch that writes before it reads begins with zeros.

    owners: of an epoch, the process of each sample; None for one process.
    """

    size: int
    owners: Callable[[int], Tensor] | None = None
    epoch: int = 0  # whose owners hold the rows
    rows: dict[str, Tensor] = field(default_factory=dict)

    def read(self, epoch: int, ids: Tensor) -> dict[str, Tensor]:
        """Return the rows of these samples, by name. All processes call it, or `write`, in each step."""
        self._begin(epoch, moved=True)
        return {name: rows[self._places(ids)] for name, rows in self.rows.items()}

    def write(self, epoch: int, ids: Tensor, rows: Mapping[str, Tensor]) -> None:
        self._begin(epoch, moved=False)
        for name, own in rows.items():
            if name not in self.rows:
                # one at least: a process without samples passes one that does not count
                self.rows[name] = own.new_zeros((max(len(self._ids), 1), *own.shape[1:]))
            self.rows[name][self._places(ids)] = own

    def whole(self) -> dict[str, Tensor]:
        """Return the rows of all samples in the first process; all call it together."""
        if self.owners is None:
            return dict(self.rows)
        first = torch.zeros(self.size, dtype=torch.int64)
        return {name: _moved(rows, self.owners(self.epoch), first) for name, rows in self.rows.items()}

    def restore(self, epoch: int, whole: Mapping[str, Tensor]) -> None:
        """Take the rows of all samples, as of this epoch."""
        self._take(epoch)
        self.rows = {name: rows if self.owners is None else rows[self._ids] for name, rows in whole.items()}

    def _begin(self, epoch: int, *, moved: bool) -> None:
        if self.owners is not None and epoch != self.epoch:
            before, after = self.owners(self.epoch), self.owners(epoch)
            self.rows = (
                {name: _moved(rows, before, after) for name, rows in self.rows.items()} if moved else {}
            )
            self._take(epoch)
        elif not hasattr(self, "_ids"):
            self._take(epoch)

    def _take(self, epoch: int) -> None:
        self.epoch = epoch
        self._ids = torch.arange(self.size)
        if self.owners is not None:
            self._ids = (self.owners(epoch) == processes.rank()).nonzero()[:, 0]
            self._place = torch.zeros(self.size, dtype=torch.int64)
            self._place[self._ids] = torch.arange(len(self._ids))

    def _places(self, ids: Tensor) -> Tensor:
        return ids if self.owners is None else self._place.to(ids.device)[ids]


def _moved(rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the rows of this process's samples by `after`, of those by `before`; in the order of samples."""
    rank, world = processes.rank(), processes.world()
    to, come = after[before == rank], before[after == rank]
    there = torch.argsort(come, stable=True).to(rows.device)
    sent = rows[torch.argsort(to, stable=True).to(rows.device)]
    counts = [torch.bincount(places, minlength=world).tolist() for places in (to, come)]
    moved = rows.new_zeros((max(len(come), 1), *rows.shape[1:]))
    moved[there] = processes.exchange(sent, *counts)
    return moved
