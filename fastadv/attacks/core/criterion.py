"""What an attack wants of the model's decision."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_count, check_number, check_share
from fastadv.engine import log_confidence
from fastadv.errors import InputError


@dataclass(frozen=True)
class Criterion:
    """What counts as a success: here, a class other than y or, where targets are given, the target.

    A subclass asks for more. In its methods logits are [B, K]; y and the targets, if any, are int [B].
    """

    def check(self, classes: int, targeted: bool) -> None:
        """Raise InputError where a model with that many classes can never meet it."""

    def of(self, model: Any) -> "Criterion":
        """Return the criterion as `model` means its logits."""
        return self

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return bool [B], which logits are a success."""
        decided = logits.argmax(1)
        return decided != y if targets is None else decided == targets

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return bool [B], which logits count as right without an attack: those that are no success."""
        return ~self.met(logits, y, None)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], positive where the logits are a success, and differentiable.

        Here it is the largest other logit minus the label's or, with targets, the target's minus the largest
        other.
        """
        index = (y if targets is None else targets)[:, None]
        own = logits.gather(1, index).squeeze(1)
        other = logits.scatter(1, index, -torch.inf).amax(1)
        return other - own if targets is None else own - other


class _OfClass(Criterion):
    """A criterion that asks for more than a wrong class; what is right is the class all the same."""

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y


@dataclass(frozen=True)
class ConfidentlyWrong(_OfClass):
    """A success needs a wrong class (the target, where one is given) of at least this probability.

    The probability is the softmax, or what else the model means by its logits: see
    `fastadv.engine.log_confidence`.

    Args:
        confidence: the least probability, in (0, 1).

    Raises:
        InputError: the confidence is outside (0, 1).

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> sure = fa.attacks.ConfidentlyWrong(0.5)
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.5), criterion=sure)
        >>> bool((model(out.x_adv).softmax(1).amax(1) >= 0.5)[out.success].all())
        True
    """

    confidence: float

    def __post_init__(self) -> None:
        check_share("confidence", self.confidence)

    def of(self, model: Any) -> "ConfidentlyWrong":
        return _Told(self.confidence, model) if hasattr(model, "log_confidence") else self

    def told(self, logits: Tensor) -> Tensor:
        """Return [B, K], the log probability of each class."""
        return logits.log_softmax(1)

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (self.margin(logits, y, targets) >= 0)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the log probability of the wrong class or the target minus that of the confidence."""
        log_probabilities = self.told(logits)
        if targets is None:
            wrong = log_probabilities.scatter(1, y[:, None], -torch.inf).amax(1)
        else:
            wrong = log_probabilities.gather(1, targets[:, None]).squeeze(1)
        return wrong - torch.log(torch.tensor(self.confidence, dtype=logits.dtype, device=logits.device))


@dataclass(frozen=True)
class _Told(ConfidentlyWrong):
    model: Any

    def told(self, logits: Tensor) -> Tensor:
        return log_confidence(self.model, logits)


@dataclass(frozen=True)
class WrongBy(_OfClass):
    """A success needs a wrong logit (the target's, where one is given) that exceeds the others by a lead.

    Without targets the largest wrong logit must exceed that of the label; with targets the target's logit
    must exceed all others.

    Args:
        lead: the least difference, a number >= 0, in units of the logits.

    Raises:
        InputError: the lead is negative or not finite.

    Source:
        Carlini and Wagner 2017 (arXiv 1608.04644), section V: the confidence kappa.
    """

    lead: float

    def __post_init__(self) -> None:
        check_number("lead", self.lead, 0)

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (self.margin(logits, y, targets) >= 0)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().margin(logits, y, targets) - self.lead


@dataclass(frozen=True)
class OutsideTopK(_OfClass):
    """A success needs a label that is not among the k classes with the largest logits.

    It takes no targets.

    Args:
        k: an integer >= 1 and below the number of classes.

    Raises:
        InputError: k is not an integer >= 1. One that is too large for the model is an error of the attack.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k, 1)

    def check(self, classes: int, targeted: bool) -> None:
        if targeted:
            raise InputError("criterion: expected no targets with OutsideTopK, got some; leave one out")
        if self.k >= classes:
            raise InputError(
                f"criterion: expected k below the {classes} classes of the model, got {self.k}; "
                "every class is among that many"
            )

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return ~(logits.topk(self.k, 1).indices == y[:, None]).any(1)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the k-th largest of the other logits minus that of the label."""
        index = y[:, None]
        others = logits.scatter(1, index, -torch.inf).topk(self.k, 1).values
        return others[:, -1] - logits.gather(1, index).squeeze(1)


WRONG = Criterion()


def decides_by_class(criterion: Any) -> bool:
    """Return whether what is right is the class y; None stands for any wrong class."""
    return criterion is None or type(criterion) is Criterion or isinstance(criterion, _OfClass)


def check_criterion(criterion: Any) -> Criterion:
    """Return `criterion`, or `WRONG` for None; InputError unless it is one."""
    if criterion is None:
        return WRONG
    if not isinstance(criterion, Criterion):
        raise InputError(
            f"criterion: expected None, ConfidentlyWrong(confidence), WrongBy(lead) "
            f"or OutsideTopK(k), got {criterion!r}"
        )
    return criterion
