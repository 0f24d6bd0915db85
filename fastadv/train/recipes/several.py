"""Several threats of one recipe: which of them a sample, or a batch, meets."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_choice
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat
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


def together(threat: Threat | Several | Sequence[Threat], choose: str | None) -> Threat | Several:
    """Return several threats as one record; of a sequence of one that threat, as there is no choice."""
    if isinstance(threat, Several):
        return threat if choose is None else replace(threat, choose=choose)
    if isinstance(threat, Sequence) and len(threat):
        several = Several(tuple(threat), "worst" if choose is None else choose)
        return several if len(threat) > 1 else threat[0]
    if choose is not None:
        raise InputError(f"choose: expected several threats to choose from, got {threat!r}; leave it out")
    return cast(Threat, threat)  # the recipe checks it


def judged(
    by: str | Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor,
    criterion: Criterion | None,
) -> Tensor:  # fmt: skip
    """Return [B], what a function, or a method of the criterion by name, says of x_adv in eval mode."""
    y = labels_or_outputs(criterion, model, x, y)
    criterion = (WRONG if criterion is None else criterion).for_labels(y)
    labels = y if criterion.outputs == "classes" else labels_for(criterion, y)
    with torch.no_grad():
        judge = by if callable(by) else getattr(criterion, by)
        values: Tensor = judge(follower(model, criterion.outputs)(x_adv), labels)
    return values


def errors(at: Step, count: int) -> Tensor:
    """Return int64 [2, count], wrong and all samples of this epoch under each threat, which a run keeps."""
    fresh = torch.zeros(2, count, dtype=torch.int64, device=at.x.device)
    counts = at.state.setdefault("errors", fresh)
    return counts if at.index else counts.zero_()


def drawn(at: Step, counts: Tensor) -> int:
    """Draw the threat of a batch by its errors, each as if one more sample were wrong: none is left out."""
    counts = counts if counts[1].all() else torch.zeros_like(counts)  # alike until each was seen
    wrong, seen = counts.double().cpu() + 1
    first = torch.zeros(1, dtype=torch.int64, device="cpu")
    share = float(rng.uniform(1, rng.derive(at.seed, "threat", at.index), first))
    *sums, total = accumulate((wrong / seen).tolist())
    return bisect_right(sums, share * total)
