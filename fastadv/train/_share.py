"""How processes share a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs import processes


@dataclass(frozen=True)
class Share:
    """The rows of one process: every `world`-th sample of a batch of `size`, from `rank` on."""

    # an owner without a sample in a smaller last batch passes the first one with weight zero

    size: int
    rank: int = 0
    world: int = 1

    @property
    def count(self) -> int:
        return len(range(self.rank, self.size, self.world))

    @property
    def key(self) -> list[int]:
        """Keys for draws that follow the step: none for the first rows, which may be all."""
        return [self.rank] if self.rank else []

    def part(self, rows: Tensor) -> Tensor:
        """Take these rows of the rows [B, ...] of the whole batch."""
        return rows[self.rank :: self.world] if self.count else rows[:1]

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

    def add_up(
        self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Sum the gradients of `weights` over the processes; None where there is none."""
        if self.world == 1:
            return gradients
        known = [gradient is not None for gradient in gradients]
        filled = (torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True))
        sums = processes.add_up(torch.cat([weights[0].new_tensor(known), *(g.flatten() for g in filled)]))
        # read only where some are missing: on a GPU that waits for it
        present = [True] * len(weights) if all(known) else sums[: len(weights)].tolist()
        parts = torch.split(sums[len(weights) :], [weight.numel() for weight in weights])
        return [
            torch.empty_like(weight, requires_grad=False).copy_(part.view(weight.shape)) if some else None
            for weight, part, some in zip(weights, parts, present, strict=True)
        ]


def mean(loss: Tensor) -> Tensor:
    """Return the loss; InputError unless it is one number."""
    if not isinstance(loss, Tensor) or loss.ndim:
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"recipe: expected one number, the mean loss of the batch, got {what}; average it")
    return loss
