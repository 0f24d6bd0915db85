"""Criteria that ask for more than a wrong class: its probability, its lead, how many classes come first."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_count, check_number, check_share
from fastadv.attacks.core.criterion import OfClass, ahead, signed
from fastadv.errors import InputError
from fastadv.losses import log_confidence


@dataclass(frozen=True)
class ConfidentlyWrong(OfClass):
    """A success needs a wrong class (the target, where one is given) of at least this probability.

    The probability is the softmax, or what else the model means by its logits: see
    `fastadv.losses.log_confidence`.

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

    def meant_by(self, model: Any) -> "ConfidentlyWrong":
        return _Told(self.confidence, model) if hasattr(model, "log_confidence") else self

    def as_probabilities(self, logits: Tensor) -> Tensor:
        """Return [B, K], the log probability of each class."""
        return logits.log_softmax(1)

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (self._sure(logits, y, targets) >= 0)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], what the wrong class or the target lacks of its confidence, or of being decided."""
        lacking = torch.minimum(self._sure(logits, y, targets), ahead(logits, y, targets))
        return signed(lacking, self.met(logits, y, targets))

    def _sure(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the log probability of the wrong class or the target minus that of the confidence."""
        log_probabilities = self.as_probabilities(logits)
        if targets is None:
            wrong = log_probabilities.scatter(1, y[:, None], -torch.inf).amax(1)
        else:
            wrong = log_probabilities.gather(1, targets[:, None]).squeeze(1)
        return wrong - torch.log(torch.tensor(self.confidence, dtype=logits.dtype, device=logits.device))


@dataclass(frozen=True)
class _Told(ConfidentlyWrong):
    model: Any = field(repr=False)
    fixed = False

    def as_probabilities(self, logits: Tensor) -> Tensor:
        return log_confidence(self.model, logits)


@dataclass(frozen=True)
class WrongBy(OfClass):
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
        return super().met(logits, y, targets) & (ahead(logits, y, targets) >= self.lead)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return signed(ahead(logits, y, targets) - self.lead, self.met(logits, y, targets))


@dataclass(frozen=True)
class OutsideTopK(OfClass):
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

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        super().check(outputs, y, targets)
        if self.k >= (classes := outputs.shape[1]):
            raise InputError(
                f"criterion: expected k below the {classes} classes of the model, got {self.k}; "
                "every class is among that many"
            )

    def check_targeted(self) -> None:
        raise InputError("criterion: expected no targets with OutsideTopK, got some; leave one out")

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        at_label, place = logits.gather(1, y[:, None]), torch.arange(logits.shape[1], device=y.device)
        ahead = (logits > at_label) | ((logits == at_label) & (place < y[:, None]))  # as argmax
        return ahead.sum(1) >= self.k

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the k-th largest of the other logits minus that of the label."""
        return signed(self._leads(logits, y)[:, -1], self.met(logits, y, targets))

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the mean of what the k largest other logits lack, or the margin where it is > 0."""
        leads = self._leads(logits, y)
        return torch.where(leads[:, -1] > 0, leads[:, -1], leads.clamp_max(0).mean(1))

    def _leads(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return [B, k], by how much the largest other logits exceed that of the label."""
        index = y[:, None]
        return logits.scatter(1, index, -torch.inf).topk(self.k, 1).values - logits.gather(1, index)

    def rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), 0)  # none of several classes decides
