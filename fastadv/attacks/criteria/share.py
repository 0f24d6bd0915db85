"""Share: one of many decisions, as of tags or at positions of a mask, and how many of them must be wrong."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fastadv._checks import check_share, kind_of
from fastadv._waiting import waits
from fastadv.attacks.core.criterion import WRONG, Criterion, Figures, signed
from fastadv.attacks.criteria.decisions import LEAST, UNIT, Positions, lead
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError
from fastadv.labels import are_one_hot, of_one_hot, on_device, warn_of_probabilities
from fastadv.losses import Loss
from fastadv.text import percent

SEEN = 4096  # positions that tell of a head that squashes


@dataclass(frozen=True)
class Share(Criterion):
    """A success needs wrong decisions at a share of positions, each of which has a class of its own.

    For dense models: outputs [B, K, ...] and y int [B, ...], such as [B, K, H, W] and [B, H, W]. One channel
    z, [B, 1, ...] or [B, ...], counts as the logits (0, z) of the classes 0 and 1. With targets, like y, a
    success has the target's class at that share of the positions where both count.

    For tags: outputs z [B, L] and y [B, L] of 0 and 1, one channel at L positions: a tag is yes where z > 0.
    `Share(1.0)` makes as many wrong as it can, where `Signs` stops at the first.

    The losses, each a mean over positions: "bounded_margin", the default, is m / (1 + |m|) of the margin m,
    and half of that where the decision is wrong; "masked_ce" is the cross-entropy where it is not wrong yet,
    and log K elsewhere; "balanced_ce" gives all classes of an image the same weight in it; "ce" is the
    cross-entropy everywhere; "js" the Jensen-Shannon divergence of softmax and label; "cospgd" weights the
    gradient of "ce" by the cosine of both. These see the logits of an image in units of 0.15 of its mean
    margin; the unit of the first is the margin at the share that must be wrong, where that is smaller. So
    their scale does not matter; of a model that ends in a sigmoid or softmax take `fastadv.models.logits`.
    "margin" is the criterion's own.

    Args:
        least: the share of positions that must be wrong, above 0 and at most 1.
        of: what is wrong at a position: a criterion of one class.
        ignore: the label of positions that do not count; often 255.

    Raises:
        InputError: the share is outside (0, 1], or `of` is no criterion of one class.

    Example:
        >>> import torch, fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = torch.nn.Conv2d(1, 3, 3, padding=1)
        >>> y = model(x).argmax(1)  # [8, 8, 8], what it decides before the attack
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.5), criterion=fa.attacks.Share(0.5))
        >>> bool(((model(out.x_adv).argmax(1) != y).flatten(1).double().mean(1) >= 0.5)[out.success].all())
        True

    Source:
        Croce et al. 2024, "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
        Models" (arXiv 2306.12941), for the masked, balanced and Jensen-Shannon losses; Agnihotri et al. 2024,
        "CosPGD" (arXiv 2302.02213).
    """

    least: float
    of: Criterion = WRONG
    ignore: int = -1
    outputs: ClassVar[Outputs] = "any"
    losses: ClassVar[tuple[str, ...]] = (
        "bounded_margin", "masked_ce", "ce", "balanced_ce", "js", "cospgd", "margin",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_share("least", self.least, one=True)
        if not isinstance(self.of, Criterion) or self.of.outputs != "classes":
            raise InputError(f"of: expected a criterion of one class, such as WrongBy(lead), got {self.of!r}")
        if isinstance(self.ignore, bool) or not isinstance(self.ignore, int):
            raise InputError(f"ignore: expected an integer label, got {self.ignore!r}")

    @property
    def counted(self) -> str:
        share = percent(self.least).replace(".0%", "%")
        share = f"{100 * self.least:.10g}%" if share in ("0%", "100%") else share
        return "not all wrong" if self.least == 1 else f"under {share} wrong"

    @property
    def whole(self) -> str:
        return "" if self.least == 1 else "Share(1.0)"

    def several(self, targeted: bool) -> bool:
        return True

    def labels(self, name: str, y: Any, size: int, device: torch.device) -> Tensor:
        if isinstance(y, Tensor) and y.ndim == 2 and bool(((y == 0) | (y == 1) | (y == self.ignore)).all()):
            y = y.long()  # tags, as of a binary cross-entropy
        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.shape[:1] != (size,):
            raise InputError(
                f"{name}: expected one integer for each position of {size} samples, a tensor [{size}, ...], "
                f"got {kind_of(y)}{of_one_hot(name) if are_one_hot(y, self.ignore) else ''}"
            )
        if y.ndim < 2:
            raise InputError(
                f"{name}: expected a class for each position, [{size}, ...], got one a sample; "
                "leave out Share for classes of whole images"
            )
        return on_device(name, y, device).long()

    def loss(self, name: str) -> Loss:
        return {
            "bounded_margin": self._bounded_margin, "masked_ce": self._masked_ce, "ce": self._ce,
            "balanced_ce": self._balanced_ce, "js": self._js, "cospgd": self._cospgd, "margin": self.margin,
        }[str(super().loss(name))]  # fmt: skip

    def in_shape(self, rows: Tensor, y: Tensor) -> Tensor:
        return rows.reshape(len(y), -1, *y.shape[1:])

    def of_single(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        if outputs.numel() == y.numel():
            return None  # whose sign decides
        rows, _ = self.positions(outputs, y).each()
        return rows[:: -(-len(rows) // SEEN)]

    @property
    def fixed(self) -> bool:
        return super().fixed and self.of.fixed

    def meant_by(self, model: Any) -> "Share":
        inner = self.of.meant_by(model)
        return self if inner is self.of else replace(self, of=inner)

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return [B], the mean cross-entropy over the positions that count."""
        if not waits(outputs.device):
            self._check_binary("y", outputs, y)
        at = self.positions(outputs, y)
        return at.mean(at.cross_entropy())

    def rising(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self._ce(outputs, y, targets)

    def _check_binary(self, name: str, outputs: Tensor, y: Tensor) -> None:
        """Raise InputError, or warn, where outputs whose signs decide are of another kind."""
        if outputs.numel() != y.numel():
            return
        if are_one_hot(y, self.ignore):
            raise InputError(
                f"{name}: expected a class for each position, got one-hot masks {tuple(y.shape)}"
                f"{of_one_hot(name)}"
            )
        warn_of_probabilities(outputs)

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        shape, size = tuple(y.shape[1:]), len(y)
        if outputs.shape[2:] != y.shape[1:] and outputs.shape != y.shape:
            do = ""
            if y.shape[1] == 1 and outputs.shape[2:] == y.shape[2:]:
                do = "; masks have no channel: pass y.squeeze(1)"
            elif are_one_hot(y, self.ignore):
                do = of_one_hot("y")
            elif outputs.shape[1:-1] == y.shape[1:]:
                do = "; move the classes to dimension 1: outputs.movedim(-1, 1)"
            elif outputs.ndim == y.ndim + 1:
                do = "; resize the outputs inside the model"
            raise InputError(
                f"model: expected outputs [{size}, K{''.join(f', {n}' for n in shape)}] for labels "
                f"{tuple(y.shape)}, got {tuple(outputs.shape)}{do}"
            )
        if targets is not None:
            self.of.check_targeted()
        for name, labels in (("y", y), ("targets", y if targets is None else targets)):
            if labels.shape != y.shape:
                raise InputError(f"{name}: expected {tuple(y.shape)} like y, got {tuple(labels.shape)}")
            self._check_binary(name, outputs, labels)
            self.check_labels(name, labels, outputs.shape[1:].numel())
            if bool((self._labels(y, labels) == self.ignore).flatten(1).all(1).any()):
                raise InputError(
                    f"{name}: expected a position that counts in each sample, got one without; leave it out"
                )
            values, of_each = self.positions(outputs, labels).each()
            counts = (labels != self.ignore).flatten()
            self.of.check(values[counts], of_each[counts], None)

    def _labels(self, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return y, or the targets where y counts."""
        return y if targets is None else targets.where(y != self.ignore, self.ignore)

    def check_labels(self, name: str, y: Tensor, width: int) -> None:
        classes = max(2, width // max(1, y.shape[1:].numel()))
        wrong = (y != self.ignore) & ((y < 0) | (y >= classes))
        if bool(wrong.any()):
            raise InputError(
                f"{name}: expected classes 0 to {classes - 1}, or ignore={self.ignore}, "
                f"got {int(y[wrong][0])}; name the label that does not count: Share(ignore=...)"
            )

    def positions(self, outputs: Tensor, y: Tensor) -> Positions:
        """Return the outputs, in any shape, position by position; where y is ignored the class is 0."""
        y = y.flatten(1)
        z = outputs.reshape(len(y), -1, y.shape[1])
        z = torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        counts = y != self.ignore
        return Positions(z, y.where(counts, 0), counts, z)

    def met_at(self, at: Positions, targeted: bool = False) -> Tensor:
        """Return bool [B, P], which positions count and are wrong, or of the class wanted."""
        if type(self.of) is Criterion:
            decided = at.z.max(1).indices  # as argmax, which is several times slower on a CPU
            return ((decided == at.y) if targeted else (decided != at.y)) & at.counts
        values, y = at.each()
        return self.of.met(values, y, y if targeted else None).view_as(at.y) & at.counts

    def decisions(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        at = self.positions(outputs, self._labels(y, targets))
        return self.met_at(at, targets is not None).sum(1), self._needed(at)

    def met(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        met, needed = self.decisions(outputs, y, targets)
        return met >= needed

    def margin(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the margin of as many positions as must be wrong."""
        at, aimed = self.positions(outputs, self._labels(y, targets)), targets is not None
        needed = self._needed(at)
        met = self.met_at(at, aimed).sum(1) >= needed
        return signed(lead(self._margins(at, aimed), at.counts, needed), met)

    def _margins(self, at: Positions, targeted: bool) -> Tensor:
        """Return [B, P], of the criterion at each position."""
        if type(self.of) is Criterion:
            return -at.margins() if targeted else at.margins()
        values, y = at.each()
        return self.of.margin(values, y, y if targeted else None).view(at.y.shape)

    def figures(self, outputs: Tensor, y: Tensor) -> Figures:
        at = self.positions(outputs, y)
        classes, decides = at.z.shape[1], outputs.flatten(1).isfinite().all(1)[:, None]
        decided = one_hot(at.z.argmax(1), classes) * (at.counts & decides)[:, :, None]
        labels = one_hot(at.y, classes) * at.counts[:, :, None]
        both = (decided & labels).sum(1).double()
        either = (decided | labels).sum(1).double()
        counts = at.counts.sum(1, keepdim=True).double()
        if y.ndim == 2 and (outputs.numel() == y.numel() or (y.shape[1] == 1 and classes == 2)):
            return {"label accuracy": (both.sum(1, keepdim=True), counts)}
        return {"pixel accuracy": (both.sum(1, keepdim=True), counts), "mean IoU": (both, either)}

    def _needed(self, at: Positions) -> Tensor:
        """Return int64 [B], the least number of positions whose share, as a quotient, is at least `least`."""
        count = at.counts.sum(1).double()
        below = (self.least * count).floor()  # or, where the product rounds, the number itself
        return (below + (below / count < self.least)).long().clamp_min(1)

    # Losses: value [B] by outputs, y and targets.

    def _bounded_margin(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        at = self.positions(outputs, self._labels(y, targets))
        margins = self._margins(at, targets is not None)
        with torch.no_grad():
            mean = at.mean(margins.abs())
            order = margins.where(at.counts, -torch.inf).sort(1, descending=True).values
            last = order.gather(1, self._needed(at)[:, None] - 1).squeeze(1).abs()
            unit = torch.minimum(last, UNIT * mean).maximum(mean / 100).clamp_min(LEAST)
        values = margins / unit[:, None]
        values = values / (1 + values.abs())
        return at.mean(torch.where(values > 0, values / 2, values))

    def _ce(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.scaled(outputs, y, targets, lambda at: at.mean(at.cross_entropy()))

    def _masked_ce(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.scaled(outputs, y, targets, lambda at: at.mean(self._masked(at, targets)))

    def _balanced_ce(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.scaled(outputs, y, targets, lambda at: at.balanced(self._masked(at, targets)))

    def _js(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.scaled(outputs, y, targets, lambda at: at.mean(at.divergence()))

    def _cospgd(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        def weighted(at: Positions) -> Tensor:
            return at.weighted(at.cosine() if targets is None else 1 - at.cosine())

        return self.scaled(outputs, y, targets, weighted)

    def scaled(
        self, outputs: Tensor, y: Tensor, targets: Tensor | None, value: Callable[[Positions], Tensor]
    ) -> Tensor:
        """Return what is to rise: the value away from y, or minus that of the targets."""
        total = value(self.positions(outputs, self._labels(y, targets)).scaled())
        return total if targets is None else -total

    def _masked(self, at: Positions, targets: Tensor | None) -> Tensor:
        """Return the cross-entropy [B, P]; where it has done its work, the largest of a right decision."""
        most = math.log(at.z.shape[1]) if targets is None else 0.0
        return at.cross_entropy().masked_fill(self.met_at(at, targets is not None), most)
