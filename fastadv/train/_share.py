"""How a batch is shared among the processes of a run, and cut into parts where no sum may depend on them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs import processes

PARTS = 8  # of a batch with `deterministic`, whatever the number of processes

Means = Tensor | Sequence[Tensor]
"""The mean loss of a process's samples; of a batch that is cut, that of each part."""


@dataclass(frozen=True)
class Stride:
    """Of a batch of `size` samples, every `world`-th, from `rank` on.

    So a place in the batch belongs to the same rows in a smaller last batch. Where these have no sample of
    such a batch, its first one is passed, which counts for nothing.
    """

    size: int
    rank: int = 0
    world: int = 1

    @property
    def count(self) -> int:
        """The samples that count here."""
        return len(range(self.rank, self.size, self.world))

    @property
    def weight(self) -> float:
        """Of the mean over these rows in the mean over the batch."""
        return self.count / self.size

    @property
    def key(self) -> list[int]:
        """What keys draws that follow the step: nothing for the first rows, which may be all."""
        return [self.rank] if self.rank else []

    def own(self, rows: Tensor) -> Tensor:
        """These rows of those of the whole batch, [B, ...]."""
        return rows[self.rank :: self.world] if self.count else rows[:1]

    def weighted(self, loss: Tensor) -> Tensor:
        """What the mean loss over these rows adds to the mean over the batch."""
        return loss if self.world == 1 else loss * self.weight


@dataclass(frozen=True)
class Share(Stride):
    """The rows of one process, of `world`.

    parts: None, or in how many the batch is cut; `world` divides it. Each part passes by itself, and sums go
    through the parts in their order, so that their bits are the same for every number of processes.
    """

    parts: int | None = None

    @property
    def cut(self) -> Sequence[Stride]:
        """The rows that this process passes one by one: all of them at once, unless the batch is cut."""
        if self.parts is None:
            return [self]
        own = [Stride(self.size, number, self.parts) for number in range(self.rank, self.parts, self.world)]
        return [part for part in own if part.count] or own[:1]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """This process's rows, by `cut`."""
        if self.parts is None:
            return [rows]
        every = self.parts // self.world
        # in memory of their own: kernels may take other ways through rows that lie otherwise
        return [rows[k::every].clone(memory_format=torch.contiguous_format) for k in range(len(self.cut))]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """This process's rows, from those by `cut`."""
        if self.parts is None:
            return parts[0]
        rows = parts[0].new_empty((max(self.count, 1), *parts[0].shape[1:]))
        for k, part in enumerate(parts):
            rows[k :: self.parts // self.world] = part
        return rows

    def whole(self, rows: Tensor) -> Tensor:
        """The rows of the whole batch, in its order, from those that each process has."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    def by_cut(self, loss: Means) -> Sequence[Tensor]:
        """The mean losses by `cut`; InputError for another number of them."""
        losses = [loss] if isinstance(loss, Tensor) else loss
        if len(losses) != len(self.cut):
            raise InputError(
                f"recipe: expected the losses of {len(self.cut)} parts of a batch, which deterministic=True "
                f"cuts, got {len(losses)}; take them with at.each (see fastadv.train.Step), or leave it out"
            )
        return losses

    def total(self, rows: Iterable[Tensor]) -> Tensor:
        """The sum over the processes, and over the parts, of a row that is given for each of `cut`."""
        each = iter(rows)  # taken one by one, so that only one is held
        row = next(each)
        if self.parts is None:
            return processes.add_up(row)
        sums = torch.zeros_like(row)
        for first in range(0, min(self.parts, self.size), self.world):
            # parts behind the last sample count for nothing
            for other in processes.gather(row)[: self.size - first]:
                sums += other
            row = next(each, row)
        return sums

    def add_up(
        self, gradients: Iterable[Sequence[Tensor | None]], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The sums over the batch of the gradients of `weights`, given by `cut`; None where there is none."""
        if self.world == 1 and self.parts is None:
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
