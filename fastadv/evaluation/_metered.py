"""A model that counts the passes of each sample and refuses more than a limit, as AttackBench does."""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv import losses, ops
from fastadv.engine import Frozen, freeze
from fastadv.threat import Threat


class Asked(NamedTuple):
    """Rows of a pass: the sample that each is of, and whether that sample may still pass."""

    rows: Tensor
    allowed: Tensor


class Metered(Frozen):
    """The model as given, without any rewrite, as an attack on x [B, ...] with labels y sees it.

    A row belongs to the sample whose x is nearest in L2. Once a sample has made `passes` forward and backward
    passes together, its rows get the logits of a sure, correct answer and a gradient of zero, as in the code
    of AttackBench (Cina et al. 2025). `verdict` always answers the truth, since an attack only checks by it
    what it returns; beyond the limit its rows count nowhere.

    forwards_of, backwards_of   int64 [B], passes of each sample.
    x_adv [B, ...], distance float64 [B]   the nearest point that the model got wrong in a pass that counted;
        x and 0 where it gets x wrong, x and inf where there is none.
    """

    def __init__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, passes: int) -> None:
        # nothing folded: every pass is one of the model as given, and what it says needs no proof
        vars(self).update(vars(freeze(model, fold=False)))
        self.forwards = self.backwards = 0
        self._x, self._y, self._flat = x, y, x.flatten(1).float()
        self._threat, self._passes = threat.with_radius(inf), passes
        self.forwards_of, self.backwards_of = torch.zeros_like(y), torch.zeros_like(y)
        self.x_adv, self.distance = x.clone(), torch.full_like(y, inf, dtype=torch.float64)
        self._classes = 0

    def __call__(self, x: Tensor) -> Tensor:
        asked = self._ask(x, 1)
        if not bool(asked.allowed.any()):
            return self._sure(asked.rows)
        logits = super().__call__(x)
        return self._count(x, logits, asked)

    def verdict(self, x: Tensor) -> Tensor:
        logits = super().verdict(x)
        self._count(x, logits, self._ask(x, 1))
        return logits

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: losses.Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        asked = self._ask(x, 2)
        if not bool(asked.allowed.any()):
            return x.new_zeros(len(x)), self._sure(asked.rows), torch.zeros_like(x)
        value, logits, gradient = super().input_gradient(x, y, loss, targets, direction)
        self._count(x, logits, asked, 1)
        spent = ~asked.allowed
        logits = torch.where(spent[:, None], self._sure(asked.rows).to(logits), logits)
        return value.masked_fill(spent, 0), logits, gradient.masked_fill(_like(spent, gradient), 0)

    def jacobian(self, x: Tensor, directions: Tensor | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        made: list[Tensor] = []

        def chosen(logits: Tensor) -> Tensor:
            made.append(directions(logits) if callable(directions) else directions)
            return made[-1]

        if not bool(self._ask(x, 2).allowed.any()):
            logits = self._sure(self._ask(x, 1).rows)
            return logits, torch.zeros_like(x).unsqueeze(1).repeat_interleave(chosen(logits).shape[1], 1)
        logits, gradients = super().jacobian(x, chosen)
        count = gradients.shape[1]
        asked = self._ask(x, 1 + count)
        self._count(x, logits, asked, count)
        spent = ~asked.allowed
        logits = torch.where(spent[:, None], self._sure(asked.rows).to(logits), logits)
        return logits, gradients.masked_fill(_like(spent, gradients), 0)

    def _ask(self, x: Tensor, cost: int) -> Asked:
        """Return which rows may pass at that many passes each; the first rows of a sample come first."""
        rows = torch.cdist(x.flatten(1).float(), self._flat).argmin(1)
        order = rows.argsort(stable=True)
        ordered, turn = rows[order], torch.empty_like(rows)
        turn[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
        used = (self.forwards_of + self.backwards_of)[rows]
        return Asked(rows, used + (turn + 1) * cost <= self._passes)

    def _sure(self, rows: Tensor) -> Tensor:
        """Return logits [n, K] of the correct class alone."""
        return torch.nn.functional.one_hot(self._y[rows], self._classes).to(self._x.dtype) * self._classes

    def _count(self, x: Tensor, logits: Tensor, asked: Asked, backwards: int = 0) -> Tensor:
        """Count the passes of the rows allowed, whose points compete for the nearest; return their logits."""
        rows, allowed = asked
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
