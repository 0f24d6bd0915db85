"""What the result of one attack says about masking, sample by sample."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import ANY_WRONG, Goal
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.masking.flags import Cost, blind, took_gradients
from fastadv.attacks.special.bounded_outputs import SOFT_LOGITS
from fastadv.threat import Threat

FEW = 8  # parameters of a map, that a grid or noise can search
SLACK = 1e-6  # what rounding adds to a distance


def reached(distance: Tensor, radius: float | Tensor) -> Tensor:
    """Return whether distances are within a radius, whatever rounding adds."""
    return distance <= radius * (1 + SLACK)


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
    unguided: bool = False  # whether it searched without gradients, if only in a part
    goal: Goal = ANY_WRONG

    def within(self, threat: Threat, distance: Tensor) -> "Evidence | None":
        """Return what it says at another radius, [N] or one number; None for another metric."""
        own, radius = self.threat, threat.radius
        if own is None or own.metric != threat.metric:
            return None
        before, now = (torch.as_tensor(each, device="cpu") for each in (own.radius, radius))
        inside = reached(distance, now)
        unfinished = self.unfinished.where(before == now, torch.nan)
        return replace(self, broken=self.broken & inside, blind=self.blind & inside, unfinished=unfinished)

    @classmethod
    def of(cls, out: AttackResult) -> "Evidence":
        broken = (out.status == Status.BROKEN).cpu()
        nothing = torch.zeros_like(broken)
        failed = (out.status == Status.FAILED).cpu()
        unmoved = (out.status == Status.HELD).cpu() & out.zero_gradient.cpu()
        costs = getattr(out, "costs", None)
        rises, gradient = out.unfinished, took_gradients(out.backwards, costs)
        return cls(
            broken=broken,
            blind=broken & _without_gradients(out, gradient),
            unmoved=unmoved | failed if gradient else nothing,
            unfinished=(nothing * torch.nan if rises is None else rises).float().cpu(),
            gradient=gradient,
            passes=out.forwards + out.backwards,
            threat=out.threat,
            soft=SOFT_LOGITS in out.flags,
            parameters=0 if out.parameters is None else out.parameters.shape[1:].numel(),
            unguided=unguided(gradient, costs, bool(out.held.any())),
            goal=out.goal,
        )


def unguided(gradient: bool, costs: Mapping[str, Cost] | None, held: bool) -> bool:
    """Return whether an attack searched without gradients, too, or its components left nothing to search."""
    return not gradient or (costs is not None and (bool(blind(costs)) or not held))


def _without_gradients(out: AttackResult, gradient: bool) -> Tensor:
    """Return bool [B]: by no gradient, or, of AutoAttack, by Square after attacks by gradients."""
    by, costs = getattr(out, "by", None), getattr(out, "costs", {})
    if by is None or not gradient:
        return torch.full((len(out.status),), not gradient, device="cpu")
    late = blind(costs)
    return torch.tensor([name in late for name in by], dtype=torch.bool, device="cpu")


def by_gradients_alone(evidence: Sequence[Evidence]) -> bool:
    """Return whether attacks in one threat searched few parameters of a map by nothing but gradients."""
    return bool(evidence) and all(each.gradient and 0 < each.parameters <= FEW for each in evidence)


def any_of(masks: Iterable[Tensor], count: int) -> Tensor:
    """Return bool [count], whether any of the masks holds."""
    return torch.stack([torch.zeros(count, dtype=torch.bool, device="cpu"), *masks]).any(0)


def broken_by(evidence: Sequence[Evidence], count: int) -> Tensor:
    """Return bool [count], the samples that some attack broke."""
    return any_of((attack.broken for attack in evidence), count)
