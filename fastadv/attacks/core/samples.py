"""The samples still under attack."""

from typing import overload

import torch
from torch import Tensor

from fastadv import ops
from fastadv.attacks.core.problem import Problem, StepSize
from fastadv.attacks.core.record import Record, Rows
from fastadv.threat import Threat


class Over(Exception):
    """Every sample has left the search."""


class Samples:
    """The samples `index` of a batch, and what is known of those that have not left.

    `problem` defines a success for them, `best` is each one's best point so far, and `rows` what a rule
    remembers; all shrink when samples leave, which writes their best to the record of the batch.

    x and all points are in float32 or float64. `dtype` is that of the caller's x, which may be in half
    precision: `rounded` points are those that it holds.
    """

    def __init__(self, problem: Problem, index: Tensor, record: Record) -> None:
        whole = len(index) == len(problem.x)
        self.dtype = problem.x.dtype
        self.problem = (problem if whole else problem.take(index)).wide()
        self.best = record.take(index)
        self.best.x_adv = self.best.x_adv.to(self.x.dtype)
        self.rows = Rows()
        # bool [n], those that are to leave
        self.leaving: Tensor | None = None
        # rows of the record, and of the caller's batch
        self._record, self._index, self.given = record, index, index

    @property
    def x(self) -> Tensor:
        """[n, ...] the clean samples."""
        return self.problem.x

    @property
    def y(self) -> Tensor:
        """int64 [n], labels."""
        return self.problem.y

    @property
    def targets(self) -> Tensor | None:
        """int64 [n], wanted classes, or None."""
        return self.problem.targets

    @property
    def aims(self) -> Tensor | None:
        """int64 [n], the classes to which losses lead; None where they lead away from y."""
        aims: Tensor | None = vars(self.rows).get("aims", self.targets)
        return aims

    @property
    def threat(self) -> Threat:
        """The threat, with the radii of these samples."""
        return self.problem.threat

    @property
    def ids(self) -> Tensor:
        """int64 [n], sample numbers; random draws depend on them."""
        return self.problem.ids

    @overload
    def per_sample(self, value: Tensor) -> Tensor: ...
    @overload
    def per_sample(self, value: StepSize) -> StepSize: ...
    def per_sample(self, value: StepSize) -> StepSize:
        """The rows of these samples, where the caller gave one value for each sample of the batch."""
        return value[self.given] if isinstance(value, Tensor) and value.ndim else value

    def distance(self, points: Tensor) -> Tensor:
        """[n] or [n, C]: the distance of points to x in the threat's norm."""
        order = self.threat.order
        if points.ndim == self.x.ndim:
            return ops.distance(points, self.x, order)[0].to(points.dtype)
        x = self.x.unsqueeze(1).expand_as(points).flatten(0, 1)
        distance, _ = ops.distance(points.flatten(0, 1), x, order)
        return distance.view(points.shape[:2]).to(points.dtype)

    def rounded(self, points: Tensor) -> Tensor:
        """The points as the dtype of the caller's x holds them, in the dtype of `points`; what lies inside
        the threat stays there.
        """
        if self.dtype == points.dtype:
            return points
        x, threat = self.x.to(self.dtype), self.threat
        if points.ndim == x.ndim:
            return threat.rounded(points, x).to(points.dtype)
        each = torch.arange(len(x), device=x.device).repeat_interleave(points.shape[1])
        flat = threat.take(each).rounded(points.flatten(0, 1), x[each])
        return flat.view(points.shape).to(points.dtype)

    def leave(self, done: Tensor) -> None:
        """Drop the samples `done` bool [n] from points and rows at the next evaluation."""
        self.leaving = done if self.leaving is None else self.leaving | done

    def drop(self, left: Tensor) -> Tensor:
        """Write the samples `left` bool [n] to the record; return those kept. Raises Over if none is."""
        self._record.put(self._index[left], self.best.take(left))
        kept = ~left
        self._index, self.given = self._index[kept], self.given[kept]
        if not len(self._index):
            raise Over
        self.problem, self.best = self.problem.take(kept), self.best.take(kept)
        self.rows.take(kept)
        if self.leaving is not None:
            self.leaving = self.leaving[kept]
        return kept

    def write(self) -> None:
        """Write the best of those still here to the record."""
        self._record.put(self._index, self.best)
