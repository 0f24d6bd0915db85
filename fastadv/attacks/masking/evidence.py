"""What the result of one attack says about masking, sample by sample."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import ANY_WRONG, Goal
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.masking.flags import Cost, blind
from fastadv.outputs import SOFT_LOGITS
from fastadv.threat import Threat

FEW = 8  # parameters of a map, that a grid or noise can search
ENOUGH = 500  # queries of a search without gradients that may stand beside stand-ins

FEW_PARAMETERS = (
    "Few parameters of a map were searched by gradients alone, which overstates robustness: run "
    "fastadv.attacks.grid, too."
)

Parts = tuple[Mapping[str, Cost], Callable[[set[str]], Tensor]]  # costs, and what some broke


@dataclass(frozen=True, eq=False)
class Evidence:
    """One attack on N samples; tensors [N], on the CPU."""

    broken: Tensor  # bool; it broke the sample, which was right before
    blind: Tensor  # bool; it did so without a gradient
    unmoved: Tensor  # bool; right, not broken; all gradients zero, or one not finite
    unfinished: Tensor  # as in `AttackResult`, NaN where it is not known
    gradient: bool  # whether it took gradients
    passes: int  # forward and backward, all samples together
    threat: Threat | None
    soft: bool = False  # whether it has the flag `soft_logits`
    parameters: int = 0  # of a sample, where a map makes images of them
    unguided: bool = False  # whether it searched long enough without gradients, if only in a part
    goal: Goal = ANY_WRONG

    @property
    def seeing(self) -> Tensor:
        """bool [N], what it broke by a gradient."""
        return self.broken & ~self.blind

    def within(self, threat: Threat, distance: Tensor) -> "Evidence | None":
        """Return what it says at another radius, [N] or one number; None for another metric."""
        if self.threat is None or self.threat.metric != threat.metric:
            return None
        before, now = (torch.as_tensor(ball.radius, device="cpu") for ball in (self.threat, threat))
        inside = distance <= self.threat.edge(now)
        unfinished = self.unfinished.where(before == now, torch.nan)
        return replace(self, broken=self.broken & inside, blind=self.blind & inside, unfinished=unfinished)

    @classmethod
    def of(cls, out: AttackResult) -> "Evidence":
        """Return what the result of one attack says."""
        broken, held, failed = (
            (out.status == status).cpu() for status in (Status.BROKEN, Status.HELD, Status.FAILED)
        )
        costs, rises = getattr(out, "costs", None), out.unfinished

        def by_any_of(names: set[str]) -> Tensor:
            return torch.tensor([name in names for name in getattr(out, "by", ())], device="cpu").bool()

        return cls.gathered(
            broken,
            unmoved=held & out.zero_gradient.cpu() | failed,
            held=bool(out.held.any()),
            backwards=out.backwards,
            queries=out.forwards / max(1, int((broken | held).sum())),
            parts=None if costs is None else (costs, by_any_of),
            unfinished=broken * torch.nan if rises is None else rises.float().cpu(),
            passes=out.forwards + out.backwards,
            threat=out.threat,
            soft=SOFT_LOGITS in out.flags,
            parameters=0 if out.parameters is None else counted(out.parameters, out.x_adv),
            goal=out.goal,
        )

    @classmethod
    def gathered(
        cls, broken: Tensor, unmoved: Tensor, held: bool, backwards: int, queries: float, parts: Parts | None,
        **details: Any,
    ) -> "Evidence":  # fmt: skip
        """Return what an attack says, or AutoAttack, some of whose parts may take no gradients."""
        if parts is None:
            gradient = backwards > 0
            unguided = not gradient and queries >= ENOUGH
            without = torch.tensor(not gradient, device="cpu")
        else:  # looks for symptoms do not count
            costs, by_any_of = parts
            gradient, late = any(cost.backwards for cost in costs.values()), blind(costs)
            searches = [costs[name] for name in (late if gradient else costs)]
            enough = any(one.forwards >= ENOUGH * max(1, one.samples) for one in searches)
            unguided = enough or not held
            without = by_any_of(late) if gradient else torch.tensor(True, device="cpu")
        return cls(
            broken, broken & without, unmoved & gradient, gradient=gradient, unguided=unguided, **details
        )


def counted(parameters: Tensor, x: Tensor) -> int:
    """Return how many parameters a sample has, more than `FEW` where they are as many as its values."""
    count, values = parameters.shape[1:].numel(), x.shape[1:].numel()
    return count if count < values else max(count, FEW + 1)


def few_parameters(evidence: Sequence[Evidence]) -> list[str]:
    """Return the remark on attacks that searched few parameters of a map by nothing but gradients."""
    of_maps = [one for one in evidence if one.threat is not None and 0 < one.parameters <= FEW]
    searched = [one.threat.metric for one in of_maps if one.threat is not None and not one.gradient]
    alone = any(one.threat is not None and one.threat.metric not in searched for one in of_maps)
    return [FEW_PARAMETERS] * alone


def any_of(masks: Iterable[Tensor], count: int) -> Tensor:
    """Return bool [count], whether any of the masks holds."""
    return torch.stack([torch.zeros(count, dtype=torch.bool, device="cpu"), *masks]).any(0)


def broken_by(evidence: Sequence[Evidence], count: int) -> Tensor:
    """Return bool [count], the samples that some attack broke."""
    return any_of((attack.broken for attack in evidence), count)
