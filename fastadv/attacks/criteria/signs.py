"""Signs: labels of which each holds or not, as in multi-label and one-logit models."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastadv._checks import check_count, kind_of
from fastadv.attacks.core.criterion import Criterion, signed
from fastadv.attacks.criteria.decisions import lead
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError
from fastadv.labels import on_device, warn_of_probabilities
from fastadv.losses import Loss

IGNORED = -1  # a label that does not count


@dataclass(frozen=True)
class Signs(Criterion):
    """A success needs wrong signs of the outputs, each of which says whether one label holds.

    For multi-label models: outputs z [B, K] and y [B, K] of 0 and 1, where -1 is ignored. A label is right
    where z > 0 as y says. With targets, like y, a success has all signs of the targets.

    One logit a sample, [B] or [B, 1], with y [B] or [B, 1] of 0 and 1, counts as the two logits (0, z) of the
    classes 0 and 1: all attacks serve it, with all their losses.

    The losses are "margin", the default, and "ce", the sum of the labels' binary cross-entropies.

    Args:
        least: how many labels of a sample must be wrong, an integer >= 1; or "all".

    Raises:
        InputError: `least` is neither.

    Example:
        >>> import torch, fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> y = (model(x) > 0).long()  # what it decides before the attack
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.5), criterion=fa.attacks.Signs())
        >>> bool(((model(out.x_adv) > 0) != y)[out.success].any(1).all())
        True

    Source:
        Song et al. 2018, "Multi-Label Adversarial Perturbations" (arXiv 1901.00546), for several labels.
    """

    least: int | Literal["all"] = 1
    outputs: ClassVar[Outputs] = "any"
    losses: ClassVar[tuple[str, ...]] = ("margin", "ce")

    def __post_init__(self) -> None:
        if self.least != "all":
            check_count("least", self.least, 1)

    @property
    def counted(self) -> str:
        if self.least == 1:
            return "accuracy"
        return "not all tags wrong" if self.least == "all" else f"under {self.least} tags wrong"

    def several(self, targeted: bool) -> bool:
        return targeted or self.least != 1

    def for_labels(self, y: Any) -> Criterion:
        if not isinstance(y, Tensor) or not (y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1)):
            return self
        if self.least not in (1, "all"):
            raise InputError(f"least: expected 1 for one label a sample, got {self.least}")
        return ONE_LOGIT

    def labels(self, name: str, y: Any, size: int, device: torch.device) -> Tensor:
        return _signs(name, y, size, device, ignored=True)

    def loss(self, name: str) -> Loss:
        return {"margin": self.margin, "ce": _cross_entropy}[str(super().loss(name))]

    def in_shape(self, rows: Tensor, y: Tensor) -> Tensor:
        return rows.view_as(y)

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        warn_of_probabilities(logits)
        return super().right(logits, y)

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return [B], the mean binary cross-entropy over the labels that count."""
        warn_of_probabilities(outputs, reads=not outputs.is_cuda)
        return _cross_entropy(outputs, y, None) / _counts(y).sum(1).clamp_min(1)

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        labels, name = (y, "y") if targets is None else (targets, "targets")
        for tags in (y, labels):
            if outputs.shape != tags.shape:
                raise InputError(
                    f"{name}: expected a label for each of the outputs {tuple(outputs.shape)}, "
                    f"got {tuple(tags.shape)}"
                )
        if not bool(_counts(labels).any(1).all()):
            raise InputError("y: expected a label besides -1 in each sample, got one without; leave it out")

    def met(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        if targets is not None:
            return ~_wrong(outputs, targets).any(1)
        return _wrong(outputs, y).sum(1) >= self._needed(y)

    def margin(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how far the outputs of as many labels as must be wrong are on the wrong side."""
        labels = y if targets is None else targets
        away, counts = _away(outputs, labels), _counts(labels)
        away, needed = (away, self._needed(y)) if targets is None else (-away, counts.sum(1))
        return signed(lead(away, counts, needed), self.met(outputs, y, targets))

    def _needed(self, y: Tensor) -> Tensor:
        """Return int64 [B], how many labels must be wrong: all that count where they are fewer."""
        counts = _counts(y).sum(1)
        return counts if self.least == "all" else counts.clamp_max(self.least)


@dataclass(frozen=True)
class OneLogit(Criterion):
    """One logit z a sample, which counts as the two logits (0, z)."""

    outputs: ClassVar[Outputs] = "logit"

    def labels(self, name: str, y: Any, size: int, device: torch.device) -> Tensor:
        return _signs(name, y, size, device, ignored=False).view(size)

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        warn_of_probabilities(logits, "logit")
        return super().right(logits, y)

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        warn_of_probabilities(outputs, "logit", reads=not outputs.is_cuda)
        return super().objective(outputs, y)


ONE_LOGIT = OneLogit()


def _signs(name: str, y: Any, size: int, device: torch.device, ignored: bool) -> Tensor:
    """Return labels of 0 and 1 as int64."""
    if not isinstance(y, Tensor) or y.shape[:1] != (size,):
        raise InputError(
            f"{name}: expected 0 or 1 for each label of {size} samples, a tensor [{size}, K], "
            f"or [{size}] for one logit, got {kind_of(y)}"
        )
    y = y if y.is_floating_point() else y.long()  # of which -1 is not 255
    fits = (y == 0) | (y == 1)
    fits = fits | (y == IGNORED) if ignored else fits
    if not bool(fits.all()):
        others = ", or -1 for one that does not count" if ignored else ""
        got = float(y[~fits].flatten()[0])
        raise InputError(f"{name}: expected labels 0 and 1{others}, got {got:g}")
    return on_device(name, y, device).long()


def _counts(y: Tensor) -> Tensor:
    """Return bool [B, K], which labels count."""
    return y.flatten(1) != IGNORED


def _away(outputs: Tensor, y: Tensor) -> Tensor:
    """Return [B, K], the outputs with the sign by which they are wrong."""
    return outputs.flatten(1) * (1 - 2 * y.flatten(1).to(outputs.dtype))


def _wrong(outputs: Tensor, y: Tensor) -> Tensor:
    """Return bool [B, K], which labels are wrong."""
    return ((outputs > 0).flatten(1) != (y.flatten(1) > 0)) & _counts(y)


def _cross_entropy(outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    labels = y if targets is None else targets
    losses = softplus(_away(outputs, labels)).where(_counts(labels), 0.0).sum(1)
    return losses if targets is None else -losses
