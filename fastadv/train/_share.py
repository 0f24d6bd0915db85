"""How processes share a batch, and, in the special case, how it is cut into parts that pass in turn."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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

    rows: of the batch that pass at once, over all processes, for `accumulate`; None: all.
    number: of one of these passes, whose rows alone are meant.
    """

    size: int
    rank: int = 0
    world: int = 1
    rows: int | None = None
    number: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the rows pass in several parts."""
        return self.rows is not None and self.number is None

    @property
    def _places(self) -> range:
        first, last = 0, self.size
        if self.rows is not None and self.number is not None:
            first = self.number * self.rows
            last = min(first + self.rows, self.size)
        return range(first + (self.rank - first) % self.world, last, self.world)

    @property
    def count(self) -> int:
        return len(self._places)

    @property
    def key(self) -> list[int]:
        """Keys for draws that follow the step: none for the first rows, which may be all."""
        keys = [self.rank] if self.number is None else [self.rank, self.number]
        return keys if any(keys) else []

    def own(self, rows: Tensor) -> Tensor:
        """Take these rows of the rows [B, ...] of the whole batch."""
        places = self._places
        last = None if self.number is None else places.stop  # a loop of one's own has a share of any size
        return rows[places.start : last : self.world] if places else rows[:1]

    def weighted(self, loss: Tensor) -> Tensor:
        """Weigh the mean loss over these rows, so that the sum over all rows is the mean over the batch."""
        return loss if self.count == self.size else loss * (self.count / self.size)

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of the whole batch, in its order, from those of each process."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    @property
    def cut(self) -> Sequence["Share"]:
        """The parts that pass one after another; one, which is all, in the usual case."""
        if self.rows is None or self.number is not None:
            return [self]
        return [replace(self, number=k) for k in range(-(-self.size // self.rows))]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """Cut the rows of this process into those of each part."""
        if not self.is_cut:
            return [rows]
        counts = [part.count for part in self.cut]
        pieces = torch.split(rows[: sum(counts)], counts)
        return [piece if len(piece) else rows[:1] for piece in pieces]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1 or not self.count:
            return parts[0]
        return torch.cat([piece[: part.count] for part, piece in zip(self.cut, parts, strict=True)])

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
        if self.world == 1 and not self.is_cut:
            (found,) = gradients
            return found
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


def mean(loss: Tensor) -> Tensor:
    """Return the loss; InputError unless it is one number."""
    if loss.ndim:
        raise InputError(
            "recipe: expected one number, the mean loss of the batch, "
            f"got shape {tuple(loss.shape)}; average it"
        )
    return loss
