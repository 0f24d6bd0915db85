"""How a batch is shared among the processes of a run, and cut into parts where no sum may depend on them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs import processes

# with `deterministic`, a batch is cut into so many parts, whatever the number of processes
PARTS = 8

Means = Tensor | Sequence[Tensor]
"""The mean loss of a process's samples; of a batch that is cut, that of each part."""


@dataclass(frozen=True)
class Stride:
    """Every `world`-th sample of a batch of `size`, from `rank` on.

    A place in the batch thus has the same owner in a smaller last batch. An owner without a sample there
    passes the first one with weight zero.

    apart: whether BatchNorm sees the rows of one process at a time.
    """

    size: int
    rank: int = 0
    world: int = 1
    apart: bool = field(default=False, kw_only=True)

    @property
    def count(self) -> int:
        """The number of samples that count here."""
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


@dataclass(frozen=True)
class Pass(Stride):
    """Those of its rows from `first` to before `last` of the batch, of which many passes make a step."""

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
class Share(Stride):
    """The rows of one process, of `world`.

    parts: None, or the number of parts into which the batch is cut, a multiple of `world`. Each part passes
    by itself and sums are taken in the order of the parts, so that no bit depends on the number of processes.
    rows: None, or how many rows of the batch pass at once, over all processes.
    """

    parts: int | None = None
    rows: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the batch passes in several parts."""
        return self.parts is not None or (self.rows is not None and self.size > self.rows)

    @property
    def cut(self) -> Sequence[Stride]:
        """The rows that this process passes one after another: a single group, unless the batch is cut."""
        if self.parts is None and self.rows is not None and self.is_cut:
            firsts = range(0, self.size, self.rows)
            whole = {each.name: getattr(self, each.name) for each in fields(Stride)}
            return [
                Pass(**whole, number=number, first=first, last=min(first + self.rows, self.size))
                for number, first in enumerate(firsts)
            ]
        if self.parts is None:
            return [self]
        own = [Stride(self.size, number, self.parts) for number in range(self.rank, self.parts, self.world)]
        return [part for part in own if part.count] or own[:1]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """Split this process's rows into its parts."""
        if not self.is_cut:
            return [rows]
        if self.parts is None:
            counts = [part.count for part in self.cut]
            pieces = torch.split(rows[: sum(counts)], counts)
            return [piece if len(piece) else rows[:1] for piece in pieces]
        every = self.parts // self.world
        # contiguous copies: kernels may choose another algorithm for strided rows
        return [rows[k::every].clone(memory_format=torch.contiguous_format) for k in range(len(self.cut))]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Join this process's parts to its rows."""
        if not self.is_cut:
            return parts[0]
        if self.parts is None:
            own = [piece[: part.count] for part, piece in zip(self.cut, parts, strict=True)]
            return torch.cat(own) if self.count else parts[0]
        rows = parts[0].new_empty((max(self.count, 1), *parts[0].shape[1:]))
        for k, part in enumerate(parts):
            rows[k :: self.parts // self.world] = part
        return rows

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of the whole batch, in its order, from those of each process."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    def by_cut(self, loss: Means) -> Sequence[Tensor]:
        """Return one mean loss for each part. Raises InputError for another number of them."""
        losses = [loss] if isinstance(loss, Tensor) else loss
        if len(losses) != len(self.cut):
            raise InputError(
                f"recipe: expected the losses of {len(self.cut)} parts of a batch, which deterministic=True "
                f"or accumulate= cuts, got {len(losses)}; take them with at.each (see fastadv.train.Step), "
                "or leave it out"
            )
        return losses

    def total(self, rows: Iterable[Tensor]) -> Tensor:
        """Sum a row over the processes and the parts; `rows` yields it for each part of this process."""
        each = iter(rows)  # taken one by one, so that only one is held
        row = next(each)
        if self.parts is None:
            for other in each:
                row = row + other
            return processes.add_up(row)
        sums = torch.zeros_like(row)
        for first in range(0, min(self.parts, self.size), self.world):
            # parts beyond the last sample have weight zero
            for other in processes.gather(row)[: self.size - first]:
                sums += other
            row = next(each, row)
        return sums

    def add_up(
        self, gradients: Iterable[Sequence[Tensor | None]], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Sum the gradients of `weights` over the batch, given by part; None where there is none."""
        if self.world == 1 and not self.is_cut:
            return next(iter(gradients))
        complete = True

        def rows() -> Iterator[Tensor]:
            nonlocal complete
            for own in gradients:
                known = [gradient is not None for gradient in own]
                complete = complete and all(known)
                held = (
                    torch.zeros_like(weight) if gradient is None else gradient
                    for weight, gradient in zip(weights, own, strict=True)
                )
                yield torch.cat([weights[0].new_tensor(known), *(each.flatten() for each in held)])

        sums = self.total(rows())
        # read only where some are missing: on a GPU that waits for it
        met = [True] * len(weights) if complete else sums[: len(weights)].tolist()
        parts = torch.split(sums[len(weights) :], [weight.numel() for weight in weights])
        return [
            torch.empty_like(weight, requires_grad=False).copy_(part.view(weight.shape)) if some else None
            for weight, part, some in zip(weights, parts, met, strict=True)
        ]
