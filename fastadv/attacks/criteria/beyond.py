"""Beyond: outputs that move further than a distance, as in regression, embeddings and verification."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fastadv._checks import check_choice, check_number, kind_of
from fastadv.attacks.core.criterion import ERRORS, Criterion, Figures, signed
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError
from fastadv.labels import on_device
from fastadv.losses import Loss

Distance = Callable[[Tensor, Tensor], Tensor]  # (outputs [B, N], y [B, N]) -> [B], differentiable


def _norm(order: float) -> Distance:
    return lambda outputs, y: torch.linalg.vector_norm(outputs - y, order, dim=1)


DISTANCES: dict[str, Distance] = {
    "l2": _norm(2), "l1": _norm(1), "linf": _norm(float("inf")),
    "cosine": lambda outputs, y: 1 - cosine_similarity(outputs, y, dim=1),
}  # fmt: skip


@dataclass(frozen=True)
class Beyond(Criterion):
    """A success needs outputs further from y than a distance; with targets, outputs as near to these.

    For models that predict numbers: y are the true ones, and what is within the distance of them counts as
    right. For embeddings and verification: y are embeddings, targets those of another face or image. y=None
    stands for the outputs at x, which then all count as right; at x itself no direction leads away more than
    another, and the search begins with a fixed one.

    There is one loss, the distance itself, "margin", whatever the tolerance. A search for the strongest point
    ends at its first success all the same: an infinite distance asks for the largest error.

    Args:
        distance: a number >= 0, in units of the outputs; of cosines, 1 minus the similarity; may be infinite.
        by: "l2" (the default), "l1", "linf", "cosine", or a function (outputs [B, N], y [B, N]) -> [B],
            differentiable.

    Raises:
        InputError: the distance is negative, or `by` is neither.

    Example:
        >>> import torch, fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16))
        >>> away = fa.attacks.Beyond(0.2, by="cosine")
        >>> out = fa.attacks.pgd(encoder, x, None, fa.Linf(0.5), criterion=away)
        >>> cosine = torch.cosine_similarity(encoder(out.x_adv), encoder(x))
        >>> bool((cosine < 0.8)[out.success].all())
        True
    """

    distance: float
    by: str | Distance = "l2"
    outputs: ClassVar[Outputs] = "any"
    losses: ClassVar[tuple[str, ...]] = ("margin",)

    def __post_init__(self) -> None:
        check_number("distance", self.distance, 0, finite=False)
        if not callable(self.by):
            check_choice("by", self.by, DISTANCES, " or a function (outputs, y) -> [B]")

    @property
    def counted(self) -> str:
        return f"within {self.distance:g}"

    @property
    def whole(self) -> str:
        return "" if self.distance == math.inf else "Beyond(inf)"

    @property
    def fixed(self) -> bool:
        return super().fixed and not callable(self.by)

    def labels(self, name: str, y: Any, size: int, device: torch.device) -> Tensor | None:
        if y is None:
            return None
        if not isinstance(y, Tensor) or y.shape[:1] != (size,) or y.is_complex():
            raise InputError(
                f"{name}: expected a tensor like the outputs for {size} samples, got {kind_of(y)}"
            )
        if not bool(y.isfinite().all()):
            raise InputError(f"{name}: expected finite numbers, got NaN or infinity among them")
        numbers = on_device(name, y, device)
        return numbers if numbers.is_floating_point() else numbers.float()

    def loss(self, name: str) -> Loss:
        super().loss(name)
        return self.leading

    def in_shape(self, rows: Tensor, y: Tensor) -> Tensor:
        return _rows(rows, y).view_as(y)

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return [B], the mean squared error for "l2", and otherwise the distance."""
        if self.by == "l2":
            return (_rows(outputs, y) - _rows(y, y).to(outputs)).square().mean(1)
        return self._apart(outputs, y)

    def reference(self, outputs: Tensor) -> Tensor:
        return outputs.detach().clone()

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        for name, other in (("y", y), ("targets", targets)):
            alone = other is not None and len(outputs) == outputs.numel() == other.numel()
            if other is not None and other.shape != outputs.shape and not alone:
                raise InputError(
                    f"{name}: expected numbers like the outputs {tuple(outputs.shape)}, "
                    f"got {tuple(other.shape)}"
                )

    def met(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        apart = self._apart(outputs, y if targets is None else targets)
        return apart > self.distance if targets is None else apart <= self.distance

    def margin(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how much the outputs are further from y, or nearer to the targets."""
        away = self.leading(outputs, y, targets)
        away = away - self.distance if targets is None else self.distance + away
        return signed(away, self.met(outputs, y, targets))

    def leading(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], how far outputs are from y, or minus how far from the targets, to full precision."""
        if targets is not None:
            return -self._apart(outputs, targets)
        apart = self._apart(outputs, y)
        if not outputs.requires_grad:
            return apart
        # the distance has no gradient at outputs equal to y, up to the rounding of another batch
        rows = _rows(y, y).to(outputs)
        away = _rows(outputs, y) - rows
        alike = away.abs().amax(1) <= torch.finfo(away.dtype).eps ** 0.5 * rows.abs().amax(1)
        mix = torch.arange(1, away.shape[1] + 1, device=away.device).to(away).cos()
        ahead = (away * mix).sum(1)
        return torch.where(alike, ahead, apart)

    def ways(self, y: Tensor, targets: Tensor | None, minimum: bool) -> tuple[Criterion, ...]:
        """Return the ways up and down of one number: a distance keeps the side of the first error."""
        if targets is not None or y.shape[1:].numel() != 1:
            return (self,)
        return _Side(self.distance, self.by, 1), _Side(self.distance, self.by, -1)

    def figures(self, outputs: Tensor, y: Tensor) -> Figures:
        """Return the errors of all numbers; cosines have none."""
        if self.by == "cosine":
            return {}
        error = (_rows(outputs, y) - _rows(y, y).to(outputs)).double()
        count = torch.full_like(error[:, :1], error.shape[1])
        sums = error.abs().sum(1, keepdim=True), error.square().sum(1, keepdim=True)
        return {name: (total, count) for name, total in zip(ERRORS, sums, strict=True)}

    def _apart(self, outputs: Tensor, y: Tensor) -> Tensor:
        by = self.by if callable(self.by) else DISTANCES[self.by]
        apart = by(_rows(outputs, y), _rows(y, y).to(outputs))
        if apart.shape != outputs.shape[:1]:
            raise InputError(
                f"by: expected a function (outputs, y) -> [B], got a result of shape {tuple(apart.shape)}"
            )
        return apart


@dataclass(frozen=True)
class _Side(Beyond):
    """A success needs one number that lies beyond the distance above y (side 1), or below it (-1)."""

    side: int = 1

    def met(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(outputs, y, targets) & (self._ahead(outputs, y) > 0)

    def leading(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the distance from y, negative on the other side."""
        ahead, apart = self._ahead(outputs, y), self._apart(outputs, y)
        value = torch.where(ahead > 0, apart, -apart).detach()
        return value + (ahead - ahead.detach())

    def _ahead(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.side * (_rows(outputs, y) - _rows(y, y).to(outputs)).sum(1)


def _rows(outputs: Tensor, y: Tensor) -> Tensor:
    """Return outputs as [B, N] like y; of one number z a search takes (0, z)."""
    return outputs.reshape(len(outputs), -1)[:, -max(1, y.shape[1:].numel()) :]
