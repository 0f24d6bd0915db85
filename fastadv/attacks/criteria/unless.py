"""Unless: a wrong class of a model that may abstain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks.core.criterion import Criterion, Figures, OfClass, signed
from fastadv.errors import InputError
from fastadv.losses import Loss, loss_and_grad


@dataclass(frozen=True)
class Unless(OfClass):
    """A success needs a wrong class that is not the class by which the model abstains.

    A clean image on which the model abstains is not right; a table counts such samples.

    Args:
        reject: the number of the class by which the model abstains; a negative one counts from the end.

    Raises:
        InputError: `reject` is no integer, or a label or target is that class.
    """

    reject: int

    def __post_init__(self) -> None:
        check_count("reject", self.reject, -(1 << 31))

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        super().check(outputs, y, targets)
        if outputs.shape[1] < 3:
            raise InputError("criterion: expected three classes or more with Unless, got a model of two")
        if not -outputs.shape[1] <= self.reject < outputs.shape[1]:
            raise InputError(
                f"reject: expected one of the {outputs.shape[1]} classes of the model, got {self.reject}"
            )
        for name, labels in (("y", y), ("targets", targets)):
            if labels is not None and bool((labels == self._place(outputs)).any()):
                raise InputError(f"{name}: expected classes other than reject={self.reject}, got it")

    def _place(self, logits: Tensor) -> int:
        return self.reject % logits.shape[1]

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (logits.argmax(1) != self._place(logits))

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the largest wrong logit minus the larger of those of the label and of `reject`."""
        if targets is not None:
            return super().margin(logits, y, targets)
        over_reject = self._wrong(logits, y) - logits[:, self._place(logits)]
        margin = torch.minimum(self._over_label(logits, y, targets), over_reject)
        return signed(margin, self.met(logits, y, targets))

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how much a wrong class leads over the label; above 0, what it has of the margin."""
        # The margin alone would stop between the classes, where the model abstains. From there on the loss is
        # positive and rises with the margin, which is still negative.
        margin, lead = self.margin(logits, y, targets), self._over_label(logits, y, targets)
        beyond = torch.where(margin > 0, 1 + margin, 1 / (1 - margin.clamp_max(0)))
        return torch.where(lead > 0, beyond, lead)

    def _over_label(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how much the target, or the largest wrong class, leads over the label."""
        wrong = self._wrong(logits, y) if targets is None else logits.gather(1, targets[:, None]).squeeze(1)
        return wrong - logits.gather(1, y[:, None]).squeeze(1)

    def _wrong(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return [B], the largest logit of a class that is neither the label nor `reject`."""
        right = torch.stack([y, torch.full_like(y, self._place(logits))], 1)
        return logits.scatter(1, right, -torch.inf).amax(1)

    def ways(self, y: Tensor, targets: Tensor | None, minimum: bool) -> tuple[Criterion, ...]:
        """Return one that passes abstention between the classes, and one that opposes it at once."""
        return (_Passing(self.reject), self) if minimum else (self, _Opposed(self.reject))

    def loss(self, name: str) -> Loss:
        """Return the loss without the logit of `reject`, to which an ascent of all would lead."""
        if super().loss(name) == "margin":
            return self.margin

        def value(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            place = self._place(logits)
            rows = torch.cat([logits[:, :place], logits[:, place + 1 :]], 1)
            aim = None if targets is None else targets - (targets > place).to(targets)
            loss, slope = loss_and_grad(rows, y - (y > place).to(y), name, aim)
            return loss + (slope * (rows - rows.detach())).sum(1)

        return value

    def rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        place = torch.full_like(y, self._place(logits))[:, None]
        return super().rivals(logits.scatter(1, place, -torch.inf), y)[:, :-1]

    def figures(self, outputs: Tensor, y: Tensor) -> Figures:
        abstained = (outputs.argmax(1) == self._place(outputs)).double()[:, None]
        return {"abstained": (abstained, torch.ones_like(abstained))}


@dataclass(frozen=True)
class _Opposed(Unless):
    """The same, whose searches for the strongest point raise the margin."""

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.margin(logits, y, targets)


@dataclass(frozen=True)
class _Passing(Unless):
    """The same, whose searches for the nearest success pass between the classes, where the margin is flat."""

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        lead = self._over_label(logits, y, targets)
        return torch.where(lead >= 0, super().margin(logits, y, targets), lead)
