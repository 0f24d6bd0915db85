"""How a batch is shared among the processes of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv import _processes


@dataclass(frozen=True)
class Share:
    """Of a batch of `size` samples, those of this process: every `world`-th, from its `rank` on.

    So a place in the batch belongs to the same process in a smaller last batch. A process with no sample of
    such a batch passes its first one, which counts for nothing, because each takes part in every sum.
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
        """Of this process's mean in the mean over the batch."""
        return self.count / self.size

    def own(self, rows: Tensor) -> Tensor:
        """This process's rows of those of the whole batch, [B, ...]."""
        return rows[self.rank :: self.world] if self.count else rows[:1]

    def whole(self, rows: Tensor) -> Tensor:
        """The rows of the whole batch, in its order, from those that each process has."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return _processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    def part(self, loss: Tensor) -> Tensor:
        """What this process's mean loss adds to the mean over the batch."""
        return loss if self.world == 1 else loss * self.weight

    def add_up(
        self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The sums over the processes of the gradients of `weights`; None where no process has one."""
        if self.world == 1:
            return gradients
        summed: list[Tensor | None] = list(gradients)
        for dtype in {weight.dtype: None for weight in weights}:
            places = [place for place, weight in enumerate(weights) if weight.dtype == dtype]
            held = [gradients[place] for place in places]
            rows = [
                torch.zeros_like(weights[place]) if mine is None else mine
                for place, mine in zip(places, held, strict=True)
            ]
            known = torch.tensor([mine is not None for mine in held], dtype=dtype, device=rows[0].device)
            sums = _processes.add_up(torch.cat([known, *(row.flatten() for row in rows)]))
            # read only where some are missing: on a GPU that waits for it
            met = [True] * len(places) if None not in held else sums[: len(places)].tolist()
            parts = torch.split(sums[len(places) :], [row.numel() for row in rows])
            for place, row, part, some in zip(places, rows, parts, met, strict=True):
                summed[place] = row.copy_(part.view(row.shape)) if some else None
        return summed
