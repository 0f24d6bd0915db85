"""Several threats of one recipe: which of them a sample, or a batch, meets."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv import rng
from fastadv._checks import check_choice
from fastadv.attacks.core.checks import check_threat
from fastadv.attacks.core.criterion import Criterion
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes._common import labels_for
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.base import Step, labels_or_outputs

DRAWN = ("harder", "random")  # one threat for a whole batch
CHOICES = ("worst", *DRAWN, "mean")


@dataclass(frozen=True)
class Several:
    """Threats in one box, and how they share the samples."""

    threats: tuple[Threat, ...]
    choose: str = "worst"

    def __post_init__(self) -> None:
        check_choice("choose", self.choose, CHOICES)
        for threat in self.threats:
            check_threat(threat)
        boxes = [threat.box for threat in self.threats]
        if len({*boxes}) > 1:
            raise InputError(f"threat: expected one box for all threats, got {boxes}; give them the same")

    @property
    def box(self) -> tuple[float, float]:
        return self.threats[0].box

    def step_sizes(self, sizes: float | Sequence[float] | None) -> tuple[float, ...] | None:
        """Return one step size for each threat, or None; InputError for another number of them."""
        if sizes is None:
            return None
        if not isinstance(sizes, Sequence) or len(sizes) != len(self.threats):
            raise InputError(
                f"step_size: expected None or one for each of {len(self.threats)} threats, got {sizes!r}"
            )
        return tuple(sizes)


def together(threat: Threat | Several | Sequence[Threat], choose: str | None) -> Threat | Several:
    """Return several threats as one record; of a sequence of one that threat, as there is no choice."""
    if isinstance(threat, Sequence) and len(threat):
        several = Several(tuple(threat), "worst" if choose is None else choose)
        return several if len(threat) > 1 else threat[0]
    if choose is None:
        return cast(Threat, threat)  # the recipe checks it
    if isinstance(threat, Several):
        return replace(threat, choose=choose)
    raise InputError(
        f"choose: expected several threats to choose from, got {threat!r}; leave it out, or pass a list"
    )


def outcome(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, criterion: Criterion | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of x_adv that training minimizes, and whether it is right, in eval mode: [B] both."""
    y = labels_or_outputs(criterion, model, x, y)
    with torch.no_grad():
        if criterion is None:
            logits = follower(model)(x_adv)
            classes = y.argmax(1) if y.ndim > 1 else y  # of soft labels
            return cross_entropy(logits, y, reduction="none"), logits.argmax(1) == classes
        criterion = criterion.for_labels(y)
        outputs, labels = follower(model, criterion.outputs)(x_adv), labels_for(criterion, y)
        return criterion.objective(outputs, labels), criterion.right(outputs, labels)


def worst(candidates: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
    """Return for each sample the candidate of the larger loss, the first among equals."""
    x_adv, top = candidates[0], losses[0]
    for other, loss in zip(candidates[1:], losses[1:], strict=True):
        larger = loss > top
        x_adv = other.where(larger.view(-1, *[1] * (other.ndim - 1)), x_adv)
        top = loss.where(larger, top)
    return x_adv


def drawn(seed: int, weights: Sequence[float]) -> int:
    """Draw a place with these weights."""
    share = float(rng.uniform(1, seed, torch.zeros(1, dtype=torch.int64, device="cpu")))
    *sums, total = accumulate(weights)
    return bisect_right(sums, share * total)


class Errors:
    """Wrong samples and all samples by threat in this epoch, in the state of a run."""

    def __init__(self, at: Step, count: int) -> None:
        self._at = at
        fresh = torch.zeros(2, count, dtype=torch.int64, device=at.x.device)
        self._counts = at.state.setdefault("errors", fresh)
        if at.index == 0:
            self._counts.zero_()

    def shares(self) -> list[float]:
        """Return the robust errors, each as if one more sample were wrong: no threat is left out for good."""
        wrong, seen = self._counts.double() + 1
        shares: list[float] = (wrong / seen).tolist()
        return shares

    def add(self, place: int, right: Tensor) -> None:
        """Count the samples of the whole batch, which all met the threat at this place."""
        wrong = self._at.share.whole((~right).long())
        self._counts[:, place] += torch.stack([wrong.sum(), wrong.new_tensor(len(wrong))])
