"""How a search is to be done, what it knows of each sample, and the rows that a rule keeps beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from fastadv import losses
from fastadv._waiting import surely_finite, waits
from fastadv.attacks.core.points import like, taken
from fastadv.ops.keep_best import keep_best_

# (name, tensor with one row a sample) -> another in its place
Change = Callable[[str, Tensor], Tensor]
TAIL = 10  # the end of a search, where the loss should rise no more: a tenth of the gradients, at most ten


@dataclass(eq=False)
class Record:
    """The best point of each sample by `rank` [n], and what was met on the way."""

    x_adv: Tensor
    rank: Tensor  # the loss of x_adv, or minus its distance
    success: Tensor
    refuted: Tensor  # the model as given denied a success of the search copy
    not_finite: Tensor
    largest_gradient: Tensor  # of all elements; NaN where one was, -inf for none
    ranks: Tensor  # [n, 2 + TAIL]: the number of gradients, the first rank, the last
    cycled: Tensor  # steps were left out, which would have repeated others

    @classmethod
    def start(cls, x: Tensor) -> "Record":
        size = x.shape[0]
        flags = torch.zeros((4, size), dtype=torch.bool, device=x.device)
        success, refuted, not_finite, cycled = flags.unbind()
        rank, largest = torch.full((2, size), -torch.inf, dtype=x.dtype, device=x.device).unbind()
        ranks = torch.full((size, 2 + TAIL), torch.nan, dtype=x.dtype, device=x.device)
        ranks.select(1, 0).zero_()
        return cls(x.clone(), rank, success, refuted, not_finite, largest, ranks, cycled)

    @property
    def distance(self) -> Tensor:
        """[n] in a minimum-norm attack: that of the nearest success so far, inf where there is none."""
        return -self.rank

    def pass_by(self, points: Tensor, finite: Tensor | None, rank: Tensor) -> None:
        """Keep points [n, ...] of that rank [n], on the way to the end of a run, until an end is ranked."""
        open_ = self.rank == -torch.inf if finite is None else (self.rank == -torch.inf) & finite
        self.x_adv.copy_(torch.where(like(open_, points), points, self.x_adv))
        self.note_rank(torch.fmax(rank.to(self.rank.dtype), self.ranks[:, -1]))

    def note_rank(self, rank: Tensor | None = None) -> None:
        now, first = (self.rank if rank is None else rank)[:, None], self.ranks[:, 1:2]
        first = torch.where(first.isnan(), now, first)
        self.ranks.copy_(torch.cat([self.ranks[:, :1] + 1, first, self.ranks[:, 3:], now], dim=1))

    def usable(self, gradient: Tensor) -> Tensor:
        """Return a gradient, whose size is on record, with zeros for what is not finite."""
        return gradient if surely_finite(self.largest_gradient) else gradient.nan_to_num(0.0, 0.0, 0.0)

    def note_cycle(self, rows: Tensor, steps: int) -> None:
        """Note so many steps, at least `TAIL`, of rows bool [n] that would repeat others."""
        self.cycled |= rows
        self.ranks[:, 0] += steps * rows
        self.ranks[rows, 2:] = self.rank[rows, None]

    @property
    def unfinished(self) -> Tensor:
        """[n] the share of the rise of the rank that came with the last tenth of the gradients, or NaN."""
        count, first = self.ranks.select(1, 0), self.ranks.select(1, 1)
        if not waits(self.rank.device) and float(count.sum()) == 0:
            return first.clone()
        steps = (count / TAIL).ceil_().clamp_(1, TAIL).long()
        before = self.ranks.gather(1, (self.ranks.shape[1] - steps)[:, None]).squeeze(1)
        share = (self.rank - before).clamp_min(0) / (self.rank - first)
        return share.masked_fill_(self.rank == first, 0.0).clamp_(0, 1)  # of random losses some sink

    @property
    def findings(self) -> dict[str, Any]:
        """What a result says of its samples besides their points: bool [n] four times, and `unfinished`."""
        not_finite = self.not_finite | ~(self.largest_gradient < torch.inf)
        zero = (self.largest_gradient == 0) & ~not_finite
        named = {"not_finite": not_finite, "zero_gradient": zero, "unfinished": self.unfinished}
        return {**named, "cycled": self.cycled, "claimed": self.success | self.refuted}

    def each(self, change: Change) -> "Record":
        return Record(*(change(name, value) for name, value in vars(self).items()))

    def take(self, index: Tensor) -> "Record":
        return self.each(lambda _, value: taken(value, index))

    def put(self, index: Tensor, rows: "Record") -> None:
        for name, value in vars(self).items():
            value[index] = getattr(rows, name)

    def merge(self, other: "Record", still: Tensor) -> None:
        """Merge what another search found for the samples `still` bool [n]; all else stays as it is."""
        self.refuted |= other.refuted & still
        self.not_finite |= other.not_finite & still
        size = torch.maximum(self.largest_gradient, other.largest_gradient)
        self.largest_gradient = torch.where(still, size, self.largest_gradient)
        # a failure never takes the place of a success
        keep_best_(self.x_adv, self.rank, self.success, other.x_adv, other.rank, other.success & still)


class Rows:
    """What a rule remembers of the samples still under attack: tensors [n, ...] set as attributes.

    A rule subclasses it and annotates the names. The search drops the rows of samples that leave. Attributes
    that are no tensors stay as they are.
    """

    _in_place: bool = False  # whether tensors are written where they lie, as a graph reads them there

    def __setattr__(self, name: str, value: Any) -> None:
        if self._in_place and isinstance(held := vars(self).get(name), Tensor):
            held.copy_(value)
        else:
            vars(self)[name] = value

    @property
    def options(self) -> dict[str, Any]:
        """What the rule remembers of all samples."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}

    def each(self, change: Change) -> Self:
        """Return the same with what `change` makes of each tensor, by name."""
        other = type(self)()
        for name, value in vars(self).items():
            if name != "_in_place":
                vars(other)[name] = change(name, value) if isinstance(value, Tensor) else value
        return other

    def in_place(self) -> Self:
        """Return the same tensors, which are written where they lie from now on."""
        other = self.each(lambda _, value: value)
        vars(other)["_in_place"] = True
        return other

    def take(self, kept: Tensor) -> None:
        """Keep the rows `kept`, bool [n] or int [m]."""
        vars(self).update(vars(self.each(lambda _, value: taken(value, kept))))

    def join(self, parts: "Sequence[Rows]") -> None:
        """Take the rows of the parts, one after the other."""
        for name, value in vars(parts[0]).items():
            tensor = isinstance(value, Tensor)
            vars(self)[name] = torch.cat([vars(part)[name] for part in parts]) if tensor else value


class Steps(Rows):
    """The `points` [n, ...] where each sample stands, and the `step_size`, a number or [n].

    `near` and `far` are points of earlier steps.
    """

    points: Tensor
    near: Tensor
    far: Tensor
    step_size: float | Tensor


class Climb(Rows):
    """The points of the largest loss so far, `best` [n, ...], that `loss` [n], and the next `points`."""

    points: Tensor
    best: Tensor
    loss: Tensor


class Over(Exception):
    """Every sample has left the search."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How to search, and which point of a sample is the best."""

    minimum: bool  # successes rank by their distance to x, not by the loss
    loss: losses.Loss
    stop_early: bool
    # of a model that draws: points rank where a run ends alone, by passes of their own, as no luck lasts
    last: bool
    rule: Callable[[Any], None]
    rows: Callable[[], Rows]
    attempts: int  # the searches that compete for the best point
    seed: int
    steps: int  # of a rule that shares them among ways to a success; else 0
    one_way: bool
    # stands in for `Search.input_gradient`, where gradient rules make it
    gradient: Callable[[Any, Tensor, losses.Loss], tuple[Tensor, Tensor, Tensor]] | None = None
