"""How processes share a batch, and, in the special case, how it is cut into parts that pass in turn."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs import processes

Means = Tensor | Sequence[Tensor]
"""The mean loss of a process's samples; of a batch that is cut, that of each part."""


@dataclass(frozen=True)
class Share:
    """The rows of one process: every `world`-th sample of a batch of `size`, from `rank` on.

    A place in the batch thus has the same owner in a smaller last batch. An owner without a sample there
    passes the first one with weight zero.
    """

    size: int
    rank: int = 0
    world: int = 1
    apart: bool = False  # whether BatchNorm sees the rows of one process at a time

    is_cut: ClassVar[bool] = False  # whether the rows pass in several parts

    @property
    def count(self) -> int:
        return len(range(self.rank, self.size, self.world))

    @property
    def key(self) -> list[int]:
        """Keys for draws that follow the step: none for the first rows, which may be all."""
        return [self.rank] if self.rank else []

    @property
    def number(self) -> int:
        """Which of the parts of its batch it is."""
        return self.rank

    def own(self, rows: Tensor) -> Tensor:
        """Take these rows of the rows [B, ...] of the whole batch."""
        return rows[self.rank :: self.world] if self.count else rows[:1]

    def weighted(self, loss: Tensor) -> Tensor:
        """Weigh the mean loss over these rows, so that the sum over all rows is the mean over the batch."""
        return loss if self.world == 1 else loss * (self.count / self.size)

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of the whole batch, in its order, from those of each process."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    @property
    def cut(self) -> Sequence["Share"]:
        """The parts that pass one after another; here one, which is all."""
        return [self]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        return [rows]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def by_cut(self, loss: Means) -> Sequence[Tensor]:
        """Return one mean loss for each part. Raises InputError for another number of them."""
        losses = [loss] if isinstance(loss, Tensor) else loss
        if len(losses) != len(self.cut):
            raise InputError(
                f"recipe: expected the losses of {len(self.cut)} parts of a batch, which accumulate= cuts, "
                f"got {len(losses)}; take them with at.each (see fastadv.train.Step), or leave it out"
            )
        return [mean(each) for each in losses]

    def total(self, rows: Iterable[Tensor]) -> Tensor:
        """Sum a row over the processes and the parts; `rows` yields it for each part of this process."""
        each = iter(rows)  # taken one by one, so that only one is held
        row = next(each)
        for other in each:
            row = row + other
        return processes.add_up(row)

    def add_up(
        self, gradients: Iterable[Sequence[Tensor | None]], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Sum the gradients of `weights` over the batch, given by part; None where there is none."""
        known: list[bool] = []

        def packed() -> Iterator[Tensor]:
            for own in gradients:
                flags = [gradient is not None for gradient in own]
                known.extend(flags)
                held = (torch.zeros_like(w) if g is None else g for w, g in zip(weights, own, strict=True))
                yield torch.cat([weights[0].new_tensor(flags), *(each.flatten() for each in held)])

        sums = self.total(packed())
        # read only where some are missing: on a GPU that waits for it
        met = [True] * len(weights) if all(known) else sums[: len(weights)].tolist()
        parts = torch.split(sums[len(weights) :], [weight.numel() for weight in weights])
        return [
            torch.empty_like(weight, requires_grad=False).copy_(part.view(weight.shape)) if some else None
            for weight, part, some in zip(weights, parts, met, strict=True)
        ]


@dataclass(frozen=True)
class Pass(Share):
    """Those of its rows from `first` to before `last` of the batch."""

    number: int = 0
    first: int = 0
    last: int = 0

    @property
    def _own(self) -> range:
        return range(self.first + (self.rank - self.first) % self.world, self.last, self.world)

    @property
    def count(self) -> int:
        return len(self._own)

    @property
    def key(self) -> list[int]:
        return [self.rank, self.number] if self.rank or self.number else []

    def own(self, rows: Tensor) -> Tensor:
        return rows[self._own.start : self.last : self.world] if self.count else rows[:1]

    def weighted(self, loss: Tensor) -> Tensor:
        return loss * (self.count / self.size)


@dataclass(frozen=True)
class Passes(Share):
    """A share that passes in many passes of `rows` over all processes, for `accumulate`."""

    rows: int = 1

    is_cut: ClassVar[bool] = True

    @property
    def cut(self) -> Sequence[Pass]:
        return [
            Pass(self.size, self.rank, self.world, self.apart, k, first, min(first + self.rows, self.size))
            for k, first in enumerate(range(0, self.size, self.rows))
        ]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        counts = [part.count for part in self.cut]
        pieces = torch.split(rows[: sum(counts)], counts)
        return [piece if len(piece) else rows[:1] for piece in pieces]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        own = [piece[: part.count] for part, piece in zip(self.cut, parts, strict=True)]
        return torch.cat(own) if self.count else parts[0]


def mean(loss: Tensor) -> Tensor:
    """Return the loss; InputError unless it is one number."""
    if loss.ndim:
        raise InputError(
            "recipe: expected one number, the mean loss of the batch, "
            f"got shape {tuple(loss.shape)}; average it"
        )
    return loss
