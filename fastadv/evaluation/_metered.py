"""A model that counts the passes of each sample and refuses more than a limit, as AttackBench does."""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.engine import Plain
from fastadv.engine.prepared import CleanPass
from fastadv.threat import Threat


class Metered(Plain):
    """The model as given, as an attack on x [B, ...] with labels y and ids sees it.

    Once a sample has made `passes` forward and backward passes together, its rows get the logits of a sure,
    correct answer and a gradient of zero, as in the code of AttackBench (Cina et al. 2025). `verdict` always
    answers the truth, since an attack only checks by it what it returns; beyond the limit its rows count
    nowhere. Attacks made with `fastadv.attacks.core` tell whose rows they pass. Of others, B rows are those
    of the B samples in order, and any other row is that of the sample whose x is nearest in L2, as there.

    forwards_of, backwards_of   int64 [B], passes of each sample.
    x_adv [B, ...], distance float64 [B]   the nearest point that the model got wrong in a pass that counted;
        x and 0 where it gets x wrong, x and inf where there is none.
    """

    def __init__(self, model: Any, x: Tensor, y: Tensor, ids: Tensor, threat: Threat, passes: int) -> None:
        """Take the batch, whose ids [B] increase."""
        super().__init__(model)
        self._x, self._y, self._ids = x, y, ids
        self._threat, self._passes = threat.with_radius(inf), passes
        self.forwards_of, self.backwards_of = torch.zeros_like(y), torch.zeros_like(y)
        self.x_adv, self.distance = x.clone(), torch.full_like(y, inf, dtype=torch.float64)
        self._classes, self._next = 0, y[:0]

    def asks_for(self, ids: Tensor, each: int = 1) -> None:
        place = torch.searchsorted(self._ids, ids).clamp_max(len(self._ids) - 1)
        known = bool((self._ids[place] == ids).all())  # or the attack counts its samples in its own way
        self._next = place.repeat_interleave(each) if known else place[:0]

    def __call__(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        allowed = self._allowed(rows, 1)
        if not bool(allowed.any()):
            return self._sure(rows)
        return self._count(x, super().__call__(x), rows, allowed)

    def clean_pass(self, x: Tensor) -> CleanPass | None:
        return None  # each pass is counted by itself

    def verdict(self, x: Tensor) -> Tensor:
        rows = self._rows(x)
        logits = super().verdict(x)
        self._count(x, logits, rows, self._allowed(rows, 1))
        return logits

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: losses.Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = self._rows(x)
        allowed = self._allowed(rows, 2)
        if not bool(allowed.any()):
            return x.new_zeros(len(x)), self._sure(rows), torch.zeros_like(x)
        value, logits, gradient = super().input_gradient(x, y, loss, targets, direction)
        logits = self._count(x, logits, rows, allowed, 1)
        return value.masked_fill(~allowed, 0), logits, gradient.masked_fill(_like(~allowed, gradient), 0)

    def jacobian(
        self,
        x: Tensor,
        directions: Tensor | Callable[[Tensor], Tensor],
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        made: list[Tensor] = []

        def chosen(logits: Tensor) -> Tensor:
            made.append(directions(logits) if callable(directions) else directions)
            return made[-1]

        rows = self._rows(x)
        if not bool(self._allowed(rows, 2).any()):
            logits = self._sure(rows)
            nothing = torch.zeros_like(x) if reduce is None else reduce(torch.zeros_like(x))
            return logits, nothing.unsqueeze(1).repeat_interleave(chosen(logits).shape[1], 1)
        logits, gradients = super().jacobian(x, chosen, reduce)
        count = gradients.shape[1]
        allowed = self._allowed(rows, 1 + count)
        logits = self._count(x, logits, rows, allowed, count)
        return logits, gradients.masked_fill(_like(~allowed, gradients), 0)

    def _rows(self, x: Tensor) -> Tensor:
        """Return int64 [n], the sample of each row."""
        if len(self._next) >= len(x):  # large sets of candidates come in parts
            rows, self._next = self._next[: len(x)], self._next[len(x) :]
            return rows
        if len(x) == len(self._x):
            return torch.arange(len(x), device=x.device)
        return torch.cdist(x.flatten(1).float(), self._x.flatten(1).float()).argmin(1)

    def _allowed(self, rows: Tensor, cost: int) -> Tensor:
        """Return bool [n], which rows may make `cost` passes each; the first rows of a sample come first."""
        order = rows.argsort(stable=True)
        ordered, turn = rows[order], torch.empty_like(rows)
        turn[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
        return (self.forwards_of + self.backwards_of)[rows] + (turn + 1) * cost <= self._passes

    def _sure(self, rows: Tensor) -> Tensor:
        """Return logits [n, K] of the correct class alone."""
        return torch.nn.functional.one_hot(self._y[rows], self._classes).to(self._x.dtype) * self._classes

    def _count(self, x: Tensor, logits: Tensor, rows: Tensor, allowed: Tensor, backwards: int = 0) -> Tensor:
        """Count the passes of the rows allowed, whose points compete for the nearest.

        Returns their logits, and sure ones for the others.
        """
        self._classes = logits.shape[1]
        one = allowed.to(rows.dtype)
        self.forwards_of.index_add_(0, rows, one)
        self.backwards_of.index_add_(0, rows, one * backwards)
        refused = int((~allowed).sum())
        self.forwards -= refused
        self.backwards -= refused * backwards
        wrong = allowed & logits.isfinite().all(1) & (logits.argmax(1) != self._y[rows])
        wrong &= self._threat.contains(x, self._x[rows])
        distance = ops.distance(x, self._x[rows], self._threat.order)[0].masked_fill(~wrong, inf)
        nearest = self.distance.scatter_reduce(0, rows, distance, "amin")
        better = (distance < self.distance[rows]) & (distance == nearest[rows])
        self.x_adv[rows[better]] = x[better].to(self.x_adv)
        self.distance = nearest
        return torch.where(allowed[:, None], logits, self._sure(rows).to(logits))


def _like(spent: Tensor, gradient: Tensor) -> Tensor:
    return spent.view(-1, *[1] * (gradient.ndim - 1))
